"""Debian packages and npm tarballs: pinned, verified, read member by member, whoever sends them."""

import base64
import hashlib
import lzma
from pathlib import Path

import pytest
from pydantic import ValidationError

from icl_embed.errors import SourceError, SourceUnreachableError
from icl_embed.sources.archive import read_members
from icl_embed.sources.card_source import DebianSource, NpmSource
from icl_embed.sources.http import Patience
from icl_embed.sources.packages import fetch_debian, fetch_npm, npm_registry
from tests.icl_embed.sources.test_archive import tarball
from tests.icl_embed.sources.web import running_site, status, whole

QUICK = Patience(attempts=2, first_wait=0.01, connect_timeout=1.0, read_timeout=0.5)
DEB = "pool/main/t/tiny/tiny_1.0+b1_all.deb"


def deb(data: bytes, name: str = "data.tar.xz", control: bytes = b"odd") -> bytes:
    """An ar archive as dpkg writes it; a member of odd length is padded."""
    packed = b"!<arch>\n"
    for member, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", control), (name, data)):
        header = f"{member:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
        packed += header.encode() + content + b"\n" * (len(content) % 2)
    return packed


@pytest.fixture
def site():
    with running_site() as running:
        yield running


def debian(content: bytes, *members: str) -> DebianSource:
    digest = hashlib.sha256(content).hexdigest()
    return DebianSource(kind="debian", path=DEB, sha256=digest, members=members)


def npm(content: bytes, *members: str, **more: str) -> NpmSource:
    listed = base64.b64encode(hashlib.sha512(content).digest()).decode()
    fields = {"integrity": f"sha512-{listed}", "sha256": hashlib.sha256(content).hexdigest(), **more}
    return NpmSource(kind="npm", package="@scope/tiny", version="1.2.3", members=members, **fields)


@pytest.mark.parametrize(("ending", "pack"), [("xz", lzma.compress), ("gz", None), ("", bytes)])
def test_a_debian_package_is_read_by_the_names_that_its_files_are_installed_under(
    site, tmp_path, monkeypatch, ending, pack
):
    import gzip

    files = tarball({"./usr/share/tiny/words.txt": b"a\nb\n", "./usr/share/doc/tiny/copyright": b"MIT"})
    name = "data.tar" + (f".{ending}" if ending else "")
    content = deb((pack or gzip.compress)(files), name)
    site.on(f"/debian/{DEB}", whole(content))
    monkeypatch.setenv("ICL_EMBED_DEBIAN_MIRROR", f"{site.url}/debian/")
    source = debian(content, "usr/share/tiny/*.txt")
    [found] = fetch_debian(source, tmp_path, patience=QUICK)
    assert (found.name, found.data) == ("usr/share/tiny/words.txt", b"a\nb\n")
    site.requests.clear()
    fetch_debian(source, tmp_path, patience=QUICK)
    assert site.requests == []  # verified and kept


def test_an_npm_package_is_fetched_from_the_registry_that_npm_asks(site, tmp_path, monkeypatch):
    import gzip

    content = gzip.compress(tarball({"package/data/rows.csv": b"x,y\n", "package/index.js": b"never run"}))
    site.on("/npm/@scope/tiny/-/tiny-1.2.3.tgz", whole(content))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"{site.url}/npm/")
    [found] = fetch_npm(npm(content, "package/data/rows.csv"), tmp_path, patience=QUICK)
    assert found.data == b"x,y\n"


def test_the_registry_is_npms_own_unless_the_user_has_another(tmp_path, monkeypatch):
    monkeypatch.delenv("NPM_CONFIG_REGISTRY", raising=False)
    monkeypatch.delenv("npm_config_registry", raising=False)
    monkeypatch.setenv("NPM_CONFIG_USERCONFIG", str(tmp_path / "npmrc"))
    assert npm_registry() == "https://registry.npmjs.org"
    (tmp_path / "npmrc").write_text("; ours\nfund=false\nregistry=https://npm.example/all/\n")
    assert npm_registry() == "https://npm.example/all"


def test_a_tarball_that_is_not_what_npm_lists_is_not_kept(site, tmp_path, monkeypatch):
    import gzip

    content = gzip.compress(tarball({"package/a.txt": b"a"}))
    site.on("/@scope/tiny/-/tiny-1.2.3.tgz", whole(content))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", site.url)
    other = npm(b"another", "package/a.txt").integrity
    with pytest.raises(SourceError, match=r"has the integrity sha512-.*, the card pins sha512-"):
        fetch_npm(npm(content, "package/a.txt", integrity=other), tmp_path, patience=QUICK)
    assert not list(tmp_path.rglob("*.tgz*"))


def test_a_mirror_that_stumbles_is_asked_again_and_one_without_the_file_is_not(site, tmp_path, monkeypatch):
    monkeypatch.setenv("ICL_EMBED_DEBIAN_MIRROR", site.url)
    content = deb(lzma.compress(tarball({"./a": b"a"})))
    site.on(f"/{DEB}", status(503))
    with pytest.raises(SourceUnreachableError, match="503"):
        fetch_debian(debian(content, "a"), tmp_path, patience=QUICK)
    assert len(site.requests) == QUICK.attempts
    site.on(f"/{DEB}", status(404))
    with pytest.raises(SourceError, match="404"):
        fetch_debian(debian(content, "a"), tmp_path, patience=QUICK)


def read(tmp_path: Path, content: bytes) -> list[str]:
    (tmp_path / "a.deb").write_bytes(content)
    return [one.name for one in read_members(tmp_path / "a.deb", ["**"])]


def test_a_debian_package_that_would_leave_its_place_is_refused_whole(tmp_path):
    for name in ("/etc/passwd", "./../../etc/passwd"):
        with pytest.raises(SourceError, match="leaves the archive"):
            read(tmp_path, deb(lzma.compress(tarball({"./fine": b"", name: b"x"}))))


def test_links_of_a_debian_package_do_not_exist(tmp_path):
    content = deb(lzma.compress(tarball({"./usr/a": b"a"}, {"./usr/b": "/etc/passwd"})))
    assert read(tmp_path, content) == ["usr/a"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"!<arch>\n", "no data.tar"),
        (deb(lzma.compress(tarball({"./a": b"a"})))[:-40], "is cut"),
        (deb(b"\x28\xb5\x2f\xfd", "data.tar.zst"), "data.tar.zst, which is not read"),
        (deb(b"no tarball at all"), "damaged|looks like|no zip"),
    ],
)
def test_a_damaged_debian_package_says_so(tmp_path, content, said):
    with pytest.raises(SourceError, match=said):
        read(tmp_path, content)


def test_an_npm_name_cannot_leave_its_folder(tmp_path):
    content = tarball({"package/ok.txt": b"", "package/../../evil": b"x"})
    (tmp_path / "a.tgz").write_bytes(content)
    with pytest.raises(SourceError, match="leaves the archive"):
        read_members(tmp_path / "a.tgz", ["package/ok.txt"])


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (DebianSource, {"path": "pool/../etc/x.deb"}),
        (DebianSource, {"path": "https://elsewhere/x.deb"}),
        (DebianSource, {"members": ["/usr/share/x"]}),
        (NpmSource, {"integrity": "sha1-abc"}),
        (NpmSource, {"package": "../tiny"}),
        (NpmSource, {"members": []}),
    ],
)
def test_a_source_that_pins_nothing_or_leaves_its_place_is_refused(kind, wrong):
    source = debian(b"x", "a") if kind is DebianSource else npm(b"x", "a")
    with pytest.raises(ValidationError):
        kind.model_validate(source.model_dump(mode="json") | wrong)
