import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from icl_embed.errors import SourceError, SourceUnreachableError
from icl_embed.sources.http import Patience
from icl_embed.sources.package_index import PackageIndex, configured_index
from icl_embed.sources.pypi import fetch_pypi_file
from tests.icl_embed.sources.web import Site, cut_after, running_site, status, whole

NAME = "tiny_data-1.0-py3-none-any.whl"
QUICK = Patience(attempts=2, first_wait=0.01, connect_timeout=1.0, read_timeout=0.5)


@pytest.fixture
def site() -> Iterator[Site]:
    with running_site() as running:
        yield running


@pytest.fixture
def wheel(tmp_path: Path) -> bytes:
    with zipfile.ZipFile(tmp_path / NAME, "w") as archive:
        archive.writestr("tiny_data/rows.jsonl", '{"q": "a"}\n')
    return (tmp_path / NAME).read_bytes()


def serve(site: Site, wheel: bytes, *, sha256: str | None = None, yanked: bool | str = False) -> str:
    digest = hashlib.sha256(wheel).hexdigest()
    page = {
        "meta": {"api-version": "1.0"},
        "name": "tiny-data",
        "files": [
            {
                "filename": NAME,
                "url": f"{site.url}/files/{NAME}",
                "hashes": {"sha256": sha256 or digest},
                "yanked": yanked,
            },
            {"filename": "tiny_data-0.9.tar.gz", "url": f"{site.url}/files/old", "hashes": {}},
        ],
    }
    site.on("/simple/tiny-data/", whole(json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json"))
    site.on(f"/files/{NAME}", whole(wheel))
    return digest


def fetch(site: Site, digest: str, downloads: Path, *, version: str = "1.0", filename: str = NAME) -> Path:
    index = PackageIndex((f"{site.url}/simple/",))
    return fetch_pypi_file("tiny-data", version, filename, digest, downloads, index=index, patience=QUICK)


def test_a_pinned_file_is_found_verified_and_kept(site, wheel, tmp_path):
    digest = serve(site, wheel)
    path = fetch(site, digest, tmp_path / "d")
    assert path.read_bytes() == wheel
    site.requests.clear()
    assert fetch(site, digest, tmp_path / "d") == path
    assert site.requests == []


def test_a_file_that_the_index_lists_with_another_hash_is_not_even_fetched(site, wheel, tmp_path):
    digest = serve(site, wheel, sha256="0" * 64)
    with pytest.raises(SourceError, match=r"lists .* with sha256 0000"):
        fetch(site, digest, tmp_path / "d")
    assert all(not path.startswith("/files") for path, _ in site.requests)


def test_a_file_with_other_bytes_than_its_hash_is_refused(site, wheel, tmp_path):
    digest = serve(site, wheel)
    site.on(f"/files/{NAME}", whole(wheel + b"!"))
    with pytest.raises(SourceError, match="expected " + digest):
        fetch(site, digest, tmp_path / "d")


def test_a_truncated_wheel_is_refused_with_both_sizes(site, wheel, tmp_path):
    digest = serve(site, wheel)
    site.on(f"/files/{NAME}", cut_after(wheel, 30), status(500))
    with pytest.raises(SourceError, match="after 2 attempts: the server answered 500"):
        fetch(site, digest, tmp_path / "d")
    site.on(f"/files/{NAME}", cut_after(wheel, 40))
    index = PackageIndex((f"{site.url}/simple/",))
    with pytest.raises(SourceError, match=rf"40 bytes arrived, expected {len(wheel)}"):
        once = Patience(attempts=1)
        fetch_pypi_file("tiny-data", "1.0", NAME, digest, tmp_path / "e", index=index, patience=once)
    assert not (tmp_path / "e" / digest / NAME).exists()


def test_a_yanked_file_is_refused_with_the_reason(site, wheel, tmp_path):
    digest = serve(site, wheel, yanked="broken data")
    with pytest.raises(SourceError, match=r"yanked by its publisher \(broken data\)"):
        fetch(site, digest, tmp_path / "d")


def test_a_missing_file_is_told_with_what_exists(site, wheel, tmp_path):
    digest = serve(site, wheel)
    with pytest.raises(SourceError, match=f"for version 1.0 it lists: {NAME}"):
        fetch(site, digest, tmp_path / "d", filename="tiny_data-1.0.tar.gz")
    with pytest.raises(SourceError, match=r"no version 3.0; the newest it lists: .*1.0"):
        fetch(site, digest, tmp_path / "d", version="3.0", filename="tiny_data-3.0.tar.gz")


def test_an_unknown_project_is_told_with_the_way_out(site, tmp_path):
    with pytest.raises(SourceError, match=r"has no project tiny-data.*index-url"):
        fetch(site, "0" * 64, tmp_path / "d")


def test_a_password_in_the_index_address_is_never_shown(site, tmp_path):
    index = PackageIndex((f"http://canary:secret@127.0.0.1:{site.port}/simple/",))
    with pytest.raises(SourceError) as caught:
        fetch_pypi_file("tiny-data", "1.0", NAME, "0" * 64, tmp_path, index=index, patience=QUICK)
    assert "secret" not in str(caught.value) and "canary" not in str(caught.value)


def test_the_second_index_is_asked_when_the_first_has_nothing(site, wheel, tmp_path):
    digest = serve(site, wheel)
    index = PackageIndex((f"{site.url}/empty/", f"{site.url}/simple/"))
    path = fetch_pypi_file("tiny-data", "1.0", NAME, digest, tmp_path / "d", index=index, patience=QUICK)
    assert path.read_bytes() == wheel


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504, 520, 529])
def test_an_index_in_trouble_is_asked_again(site, wheel, tmp_path, code):
    digest = serve(site, wheel)
    (page,) = site.answers["/simple/tiny-data/"]
    site.on("/simple/tiny-data/", status(code, Retry_After="0"), page)
    assert fetch(site, digest, tmp_path / "d").read_bytes() == wheel


@pytest.mark.parametrize("code", [429, 500, 503, 529])
def test_an_index_that_stays_in_trouble_is_of_the_kind_that_waiting_mends(site, tmp_path, code):
    site.on("/simple/tiny-data/", status(code))
    with pytest.raises(SourceUnreachableError, match=f"after 2 attempts: the server answered {code}"):
        fetch(site, "0" * 64, tmp_path / "d")
    assert len(site.requests) == 2


@pytest.mark.parametrize("code", [401, 403, 410, 501])
def test_an_index_that_refuses_is_not_asked_again(site, tmp_path, code):
    site.on("/simple/tiny-data/", status(code))
    with pytest.raises(SourceError, match=f"refuses: HTTPError: {code}") as caught:
        fetch(site, "0" * 64, tmp_path / "d")
    assert not caught.value.is_transient
    assert len(site.requests) == 1


def test_nobody_says_that_a_file_does_not_exist_while_an_index_is_silent(site, wheel, tmp_path):
    digest = serve(site, wheel)
    site.on("/sick/tiny-data/", status(503))
    index = PackageIndex((f"{site.url}/sick/", f"{site.url}/simple/"))
    other = "tiny_data-1.0.tar.gz"  # the healthy index lists the project, but not this file
    with pytest.raises(SourceUnreachableError, match="503"):
        fetch_pypi_file("tiny-data", "1.0", other, digest, tmp_path / "d", index=index, patience=QUICK)


def test_a_dead_index_is_of_the_kind_that_waiting_mends(tmp_path):
    with running_site() as gone:
        index = PackageIndex((f"{gone.url}/simple/",))
    with pytest.raises(SourceUnreachableError):
        fetch_pypi_file("tiny-data", "1.0", NAME, "0" * 64, tmp_path / "d", index=index, patience=QUICK)


def test_the_environment_says_which_index_to_ask(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example.org/simple")
    monkeypatch.setenv(
        "PIP_EXTRA_INDEX_URL", "file:///nowhere https://more.example.org/simple http://plain.example.org/"
    )
    assert configured_index().endpoints == (
        "https://mirror.example.org/simple",
        "https://more.example.org/simple",
    )


def test_pips_configuration_file_says_which_index_to_ask(monkeypatch, tmp_path):
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://a.example.org/simple\n[install]\nextra-index-url = https://b.example.org/s%%C3\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert configured_index().endpoints[0] == "https://a.example.org/simple"
