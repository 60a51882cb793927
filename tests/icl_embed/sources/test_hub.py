import pytest

from icl_embed.errors import SourceError
from icl_embed.sources.card_source import HubSource
from icl_embed.sources.hub import fetch_hub

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
