"""What a source gives: named contents that can be opened, and the guard that keeps hostile ones small."""

from __future__ import annotations

import gzip
import io
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
        """The content: as stored, or decompressed if the name ends in ``.gz``.

        Raises (here or while reading)
            SourceError: not gzip, truncated, or it grows beyond the caps.
        """
        raw = self.open_raw()
        if not self.name.endswith(".gz"):
            return raw
        limit = min(MAX_CONTENT_BYTES, max(RATIO_FLOOR_BYTES, MAX_RATIO * self.num_bytes))
        unzipped = cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
        return io.BufferedReader(GuardedReader(unzipped, self.name, limit, keep_open=raw))

    def _path(self) -> Path:
        if self.path is None:
            raise SourceError(f"{self.name} has neither a path nor data")
        return self.path


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
        except (EOFError, OSError, zlib.error) as error:
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
