"""What a source gives: named contents that can be opened, and the guard that keeps hostile ones small.

Whether a file is compressed, and how, is read from its first bytes; its name only says what is inside.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from icl_embed.errors import SourceError

Progress = Callable[[str, int, int | None], None]
"""Called with (file name, bytes so far, bytes in all or None)."""

MAX_CONTENT_BYTES = 4 << 30  # of one file once decompressed
MAX_RATIO = 200  # text compresses 3-20 times; nothing honest reaches 200 once it is large
RATIO_FLOOR_BYTES = 16 << 20  # small files may compress as well as they like
HEAD_BYTES = 512  # enough to tell what a file is: a tarball says it at byte 257

COMPRESSED_ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".lz4")


def plain_name(name: str) -> str:
    """A file's name without the ending of a compression."""
    return next((name.removesuffix(end) for end in COMPRESSED_ENDINGS if name.endswith(end)), name)


@dataclass(frozen=True)
class Fetched:
    """One verified file: in memory (a member of an archive) or on the disk."""

    name: str
    path: Path | None = None
    data: bytes | None = None

    @property
    def num_bytes(self) -> int:
        """Size as stored."""
        return len(self.data) if self.data is not None else self._path().stat().st_size

    def open_raw(self) -> IO[bytes]:
        """The stored bytes, seekable."""
        return io.BytesIO(self.data) if self.data is not None else self._path().open("rb")

    def open(self) -> IO[bytes]:
        """The content: decompressed if it begins as gzip, bzip2, xz, zstd or lz4 do, else as stored.

        Raises (here or while reading)
            SourceError: not what its ending says, truncated, or it grows beyond the caps.
        """
        raw = self.open_raw()
        head = raw.read(HEAD_BYTES)
        raw.seek(0)
        opened = _decompressed(raw, head)
        if opened is None:
            if head and plain_name(self.name) != self.name:
                raw.close()
                looks = looks_like(head) or "something that is not compressed"
                raise SourceError(f"{self.name} is damaged or misnamed: it looks like {looks}")
            return raw
        limit = min(MAX_CONTENT_BYTES, max(RATIO_FLOOR_BYTES, MAX_RATIO * self.num_bytes))
        return io.BufferedReader(GuardedReader(opened, self.name, limit, keep_open=raw))

    def _path(self) -> Path:
        if self.path is None:
            raise SourceError(f"{self.name} has neither a path nor data")
        return self.path


def _decompressed(raw: IO[bytes], head: bytes) -> IO[bytes] | None:
    """A reader of the content, or nothing if the head is of no compression that is read here."""
    if head.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):  # a block, or the end of none
        return cast("IO[bytes]", bz2.BZ2File(raw))
    if head.startswith(b"\xfd7zXZ\0"):
        return cast("IO[bytes]", lzma.LZMAFile(raw))
    codec = "zstd" if _is_zstd(head) else "lz4" if head.startswith(b"\x04\x22\x4d\x18") else ""
    if not codec:
        return None
    import pyarrow as pa

    return cast("IO[bytes]", pa.CompressedInputStream(pa.PythonFile(raw, "r"), codec))


def _is_zstd(head: bytes) -> bool:
    # parallel writers begin with a frame that is to be skipped
    return head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5)


LOOKS = (
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\xff\xff\xff\xff", "an Arrow stream"),
    (b"PK\x03\x04", "a zip archive (also .xlsx, .docx, .npz)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x1f\x8b", "data compressed by gzip"),
    (b"\x1f\x9d", "data compressed by compress (.Z)"),
    (b"\x28\xb5\x2f\xfd", "data compressed by zstd"),
    (b"\x04\x22\x4d\x18", "data compressed by lz4"),
    (b"LZIP", "data compressed by lzip"),
    (b"\xff\x06\0\0sNaPpY", "data compressed by snappy"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (.xls, .doc)"),
    (b"%PDF", "a PDF"),
    (b"SQLite format 3\0", "a SQLite database"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"Obj\x01", "an Avro file"),
    (b"ORC", "an ORC file"),
    (b"GGUF", "GGUF weights"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x7fELF", "a program"),
)

WEB_PAGE = "a web page (a login or an error in place of the file)"


def looks_like(head: bytes) -> str:
    """What a file that begins so is, in words, if it holds no records as text; else empty."""
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (the data themselves were not fetched: git lfs pull)"
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return WEB_PAGE
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle"
    if _is_clean(head):  # a table may well have a first column called ORC
        return ""
    return next((words for magic, words in LOOKS if head.startswith(magic)), "")


def _is_clean(head: bytes) -> bool:
    text = head.decode("utf-8", "replace").rstrip("\ufffd")  # the end may cut a character
    return not any(
        character == "\ufffd" or (character < " " and character not in "\t\n\r\f") for character in text
    )


class GuardedReader(io.RawIOBase):
    """A reader that stops a decompression bomb and turns every decoder's error into a SourceError."""

    def __init__(self, inner: IO[bytes], name: str, limit: int, keep_open: IO[bytes] | None = None) -> None:
        self._inner, self._name, self._limit, self._beneath = inner, name, limit, keep_open
        self._seen = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill the buffer; see the class."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        try:
            data = self._inner.read(len(view))
        except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
            raise SourceError(
                f"{self._name} is damaged after {self._seen} bytes of content: {error}; fetch it again"
            ) from error
        self._seen += len(data)
        if self._seen > self._limit:
            raise SourceError(
                f"{self._name} grows beyond {self._limit} bytes when it is decompressed: "
                "more than any honest data file; not read further"
            )
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close what is beneath too."""
        if not self.closed:
            self._inner.close()
            if self._beneath is not None:
                self._beneath.close()
        super().close()
