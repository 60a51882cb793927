"""Wheels, zips and tarballs, read member by member.

Nothing is ever unpacked: names are checked and only used to look members up, contents are read through caps
on size and on the compression ratio, links and devices are refused. ``outer.tar.gz!inner.txt`` names a
member of an archive that is itself a member.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from icl_embed.errors import SourceError
from icl_embed.sources.fetched import HEAD_BYTES, MAX_RATIO, RATIO_FLOOR_BYTES, Fetched, looks_like
from icl_embed.store.files import CHUNK_BYTES, fsync_path

MAX_MEMBER_BYTES = 512 << 20  # of a member that is read into memory
MAX_TOTAL_BYTES = 1 << 30  # of all members of one source together
MAX_MEMBERS = 200_000
DEB_MAGIC, AR_HEADER = b"!<arch>\n", 60
READ_HERE = ("a tar archive", "a zip archive", "data compressed by gzip")  # of what ``looks_like`` tells
# NotImplementedError is what zipfile raises of a compression that it does not know
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError)

Member = tuple[str, int, int]  # name, size as declared, stored size (0 where a tarball does not say)
OpenMember = Callable[[str], IO[bytes]]


def read_members(archive: Path, patterns: Sequence[str]) -> list[Fetched]:
    """The members whose names match, in the order of their names.

    Raises
        SourceError: not an archive, damaged, a pattern without a match, a name that leaves the archive, a
            member over the caps.
    """
    with archive.open("rb") as handle:
        found = _read(handle, archive.name, patterns)
    total = sum(item.num_bytes for item in found)
    if total > MAX_TOTAL_BYTES:
        raise SourceError(f"the members of {archive.name} hold {total} bytes, more than {MAX_TOTAL_BYTES}")
    return sorted(found, key=lambda item: item.name)


def extract_member(archive: Path, member: str, target: Path, *, max_bytes: int = 16 << 30) -> None:
    """Copy one member to ``target``, atomically, without holding it in memory.

    Raises
        SourceError: as in ``read_members``, or the disk refuses; ``target`` is then as it was.
    """
    temporary = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open("rb") as handle, temporary.open("wb") as output:
            for name, chunks in _select(handle, archive.name, [member], max_bytes):
                if name != member:
                    raise SourceError(f"{member!r} is a pattern; one member is extracted by its exact name")
                output.writelines(chunks)
            output.flush()
            os.fsync(output.fileno())
        temporary.replace(target)
        fsync_path(target.parent)
    except OSError as error:
        raise SourceError(f"cannot write {target}: {error.strerror or error}; nothing was changed") from error
    finally:
        temporary.unlink(missing_ok=True)


def extract_folder(archive: Path, folder: str, target: Path, *, max_bytes: int = 16 << 30) -> int:
    """Copy all members below a folder to ``target``, which should not exist yet; returns how many.

    Raises
        SourceError: as in ``read_members``; no member is below the folder, or the disk refuses.
    """
    count = 0
    try:
        with archive.open("rb") as handle:
            for name, chunks in _select(handle, archive.name, [f"{folder}/**"], max_bytes):
                path = target / PurePosixPath(name).relative_to(folder)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as output:
                    output.writelines(chunks)
                count += 1
    except OSError as error:
        raise SourceError(f"cannot write to {target}: {error.strerror or error}") from error
    return count


def _read(handle: IO[bytes], archive: str, patterns: Sequence[str]) -> list[Fetched]:
    plain = [pattern for pattern in patterns if "!" not in pattern]
    found = [
        Fetched(name, data=b"".join(chunks))
        for name, chunks in (_select(handle, archive, plain, MAX_MEMBER_BYTES) if plain else ())
    ]
    inner: dict[str, list[str]] = {}
    for pattern in patterns:
        outer, separator, rest = pattern.partition("!")
        if separator:
            inner.setdefault(outer, []).append(rest)
    for outer, rests in inner.items():
        for name, chunks in _select(handle, archive, [outer], MAX_MEMBER_BYTES):
            beneath = _read(io.BytesIO(b"".join(chunks)), f"{archive}!{name}", rests)
            found += [Fetched(f"{name}!{item.name}", data=item.data) for item in beneath]
    return found


def _select(
    handle: IO[bytes], archive: str, patterns: Sequence[str], max_bytes: int
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """(name, chunks of its content) of each matching member; chunks must be used before the next member."""
    handle.seek(0)
    with _damage_told(archive), _opened(handle, archive) as (members, open_member):
        names = _matching([name for name, _, _ in members], patterns, archive)
        for name, size, stored in members:
            if name in names:
                _check_size(f"{name} in {archive}", size, stored, max_bytes)
                yield name, _chunks(open_member(name), f"{name} in {archive}", size)


@contextmanager
def _damage_told(what: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise SourceError(
            f"{what} is damaged, or no zip, wheel or tarball: {error}; delete the archive and fetch it again"
        ) from error


@contextmanager
def _opened(handle: IO[bytes], archive: str) -> Iterator[tuple[list[Member], OpenMember]]:
    if zipfile.is_zipfile(handle):
        with zipfile.ZipFile(handle) as zipped:
            infos = {info.filename: info for info in zipped.infolist() if not info.is_dir()}
            members = [(name, info.file_size, info.compress_size) for name, info in infos.items()]
            yield _checked(members, archive), lambda name: zipped.open(infos[name])
        return
    handle.seek(0)
    if handle.read(len(DEB_MAGIC)) == DEB_MAGIC:
        handle = _data_of_deb(handle, archive)
    limit = max(RATIO_FLOOR_BYTES, MAX_RATIO * handle.seek(0, io.SEEK_END))
    handle.seek(0)
    looks = looks_like(handle.read(HEAD_BYTES))
    if looks and not looks.startswith(READ_HERE):
        raise SourceError(f"{archive} looks like {looks}; zip, wheel, tar, tar.gz, tar.bz2, tar.xz are read")
    handle.seek(0)
    with tarfile.open(fileobj=handle, mode="r:*") as tar:
        files: dict[str, tarfile.TarInfo] = {}
        total = 0
        for item in tar:
            total += item.size
            if total > limit or len(files) > MAX_MEMBERS:
                raise SourceError(f"{archive} grows beyond {limit} bytes or {MAX_MEMBERS} members; refused")
            if item.isfile():  # links and devices do not exist for us
                files[item.name.removeprefix("./")] = item

        def open_member(name: str) -> IO[bytes]:
            opened = tar.extractfile(files[name])
            if opened is None:
                raise SourceError(f"{name} in {archive} is not a plain file")
            return opened

        yield _checked([(name, item.size, 0) for name, item in files.items()], archive), open_member


class _Window(io.RawIOBase):
    """A part of a file as a file of its own."""

    def __init__(self, handle: IO[bytes], start: int, size: int) -> None:
        super().__init__()
        self._handle, self._start, self._size, self._at = handle, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._handle.seek(self._start + self._at)
        data = self._handle.read(min(len(buffer), max(0, self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _data_of_deb(handle: IO[bytes], archive: str) -> IO[bytes]:
    """The tarball of a Debian package's files: a member of the ar archive that the package is (deb(5)).

    Raises
        SourceError: the ar archive is cut or has no such member, or it is compressed by zstd, which Debian
            itself does not use.
    """
    end = handle.seek(0, io.SEEK_END)
    at = len(DEB_MAGIC)
    while at + AR_HEADER <= end:
        handle.seek(at)
        header = handle.read(AR_HEADER)
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), header[48:58].strip()
        if header[58:60] != b"`\n" or not size.isdigit() or at + AR_HEADER + int(size) > end:
            break
        if name.startswith("data.tar"):
            if name.endswith(".zst"):
                raise SourceError(f"{archive} holds {name}, which is not read; take Debian's own build")
            return io.BufferedReader(_Window(handle, at + AR_HEADER, int(size)))
        at += AR_HEADER + int(size) + int(size) % 2
    raise SourceError(
        f"{archive} begins as a Debian package, but is cut or has no data.tar; delete it and fetch it again"
    )


def _checked(members: list[Member], archive: str) -> list[Member]:
    if len(members) > MAX_MEMBERS:
        raise SourceError(f"{archive} has {len(members)} members, more than {MAX_MEMBERS}")
    for name, _, _ in members:
        parts = PurePosixPath(name).parts
        if not parts or "\0" in name or "\\" in name or name.startswith(("/", "~")) or ".." in parts:
            raise SourceError(
                f"{archive} has a member called {name!r}, which leaves the archive; refused whole"
            )
    return members


def _check_size(what: str, size: int, stored: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise SourceError(f"{what} says it holds {size} bytes, more than the {max_bytes} allowed")
    if stored and size > RATIO_FLOOR_BYTES and size > MAX_RATIO * stored:
        raise SourceError(f"{what} would grow from {stored} to {size} bytes: a decompression bomb; refused")


def _chunks(opened: IO[bytes], name: str, size: int) -> Iterator[bytes]:
    """The content, which must be exactly as long as the archive declares."""
    seen = 0
    with _damage_told(name), opened:
        while chunk := opened.read(CHUNK_BYTES):
            seen += len(chunk)
            if seen > size:
                raise SourceError(f"{name} is longer than the {size} bytes its archive declares; refused")
            yield chunk
    if seen != size:
        raise SourceError(f"{name} is truncated: {seen} bytes, expected {size}")


def _matching(names: Iterable[str], patterns: Sequence[str], archive: str) -> set[str]:
    names = list(names)
    chosen: set[str] = set()
    for pattern in patterns:
        hits = [name for name in names if matches(name, pattern)]
        if not hits:
            wanted = PurePosixPath(pattern).suffix
            near = [name for name in names if PurePosixPath(name).suffix == wanted] or names
            shown = ", ".join(sorted(near)[:12]) + (" …" if len(near) > 12 else "")
            raise SourceError(f"{archive} has no member {pattern!r}; it has: {shown or 'none'}")
        chosen.update(hits)
    return chosen


def matches(name: str, pattern: str) -> bool:
    """Whether a name fits a glob: ``*``, ``?``, ``[ab]``, ``[^ab]`` stay within a folder, ``**`` crosses."""
    return _compiled(pattern).fullmatch(name) is not None


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"(\*\*/?|\*|\?|\[[^\]/]*\])", pattern)
    translated = []
    for piece in pieces:
        if piece == "**/":
            translated.append("(?:.*/)?")
        elif piece in ("**", "*", "?"):
            translated.append({"**": ".*", "*": "[^/]*", "?": "[^/]"}[piece])
        elif piece.startswith("[") and piece.endswith("]") and len(piece) > 2:
            translated.append("[" + piece[1:-1].replace("\\", r"\\") + "]")
        else:
            translated.append(re.escape(piece))
    return re.compile("".join(translated), re.DOTALL)
