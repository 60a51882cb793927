import os
import subprocess
import sys

import pytest

from icl_embed.errors import SourceError
from icl_embed.sources.card_source import HubSource
from icl_embed.sources.hub import fetch_hub
from tests.icl_embed.sources.web import running_site, status

REVISION = "0123456789abcdef0123456789abcdef01234567"
SOURCE = HubSource(kind="hub", repository="someone/rows", revision=REVISION, files=("data/*.jsonl",))


def cached(folder):
    """The layout of the hub's cache: snapshots of links into blobs."""
    repository = folder / "datasets--someone--rows"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / "b10b").write_text('{"q": "a"}\n')
    data = repository / "snapshots" / REVISION / "data"
    data.mkdir(parents=True)
    (data / "train.jsonl").symlink_to("../../../blobs/b10b")
    return data


def test_a_cached_commit_needs_no_network(tmp_path):
    cached(tmp_path / "hub")
    (file,) = fetch_hub(SOURCE, tmp_path)
    assert file.name == "data/train.jsonl"
    with file.open() as handle:
        assert handle.read() == b'{"q": "a"}\n'


def test_a_link_that_leads_out_of_the_cache_is_refused(tmp_path):
    data = cached(tmp_path / "hub")
    (tmp_path / "secret").write_text("{}")
    (data / "evil.jsonl").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceError, match="leads out"):
        fetch_hub(SOURCE, tmp_path)


def test_an_uncached_commit_without_a_network_is_told_with_the_way_out(tmp_path):
    with pytest.raises(SourceError, match=r"cannot get someone/rows at 0123.*use a local source"):
        fetch_hub(SOURCE, tmp_path)


ASK = """
import sys
from pathlib import Path

from icl_embed.errors import SourceError
from icl_embed.sources.card_source import HubSource
from icl_embed.sources.hub import fetch_hub

for name in sys.argv[2:]:
    source = HubSource(kind="hub", repository=f"someone/{name}", revision="0" * 40, files=("*.jsonl",))
    try:
        fetch_hub(source, Path(sys.argv[1]))
    except SourceError as error:
        print(name, error.is_transient)
"""


def asked_of_a_hub(address, folder, *names, **environment):
    """Repository -> whether waiting can mend it; in a process of its own, as the hub reads its settings once."""
    quick = {"HF_ENDPOINT": address, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "0", **environment}
    command = [sys.executable, "-c", ASK, str(folder), *names]
    found = subprocess.run(command, env=os.environ | quick, capture_output=True, text=True, check=True)
    return dict(line.split() for line in found.stdout.splitlines())


def test_only_a_hub_in_trouble_is_of_the_kind_that_waiting_mends(tmp_path):
    with running_site() as site:
        for code in (520, 404, 403):  # the hub's own client waits for 500 to 504 and 429, for a minute
            site.on(
                f"/api/datasets/someone/rows-{code}/tree/{'0' * 40}?recursive=true&expand=false", status(code)
            )
        found = asked_of_a_hub(site.url, tmp_path, "rows-520", "rows-404", "rows-403")
    assert found == {"rows-520": "True", "rows-404": "False", "rows-403": "False"}


def test_a_hub_that_may_not_be_asked_is_not_waited_for(tmp_path):
    assert asked_of_a_hub("http://127.0.0.1:9", tmp_path, "rows", HF_HUB_OFFLINE="1") == {"rows": "False"}
