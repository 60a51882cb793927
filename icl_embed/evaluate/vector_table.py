"""Vectors found by the text that they stand for: what a corpus of a million texts needs in memory, no more.

Texts are known by a digest of 16 bytes, so no text is held twice; vectors stay in the blocks in which they
came, which may be memory-mapped files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

DIGEST_BYTES = 16  # two of 10⁹ texts share one with a chance of 10⁻²¹


def digest_of(text: str) -> bytes:
    """What names a text; texts that differ in any character differ here."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


@dataclass
class VectorTable:
    """Digest -> vector.

    Attributes
        dimension: length of a vector.
    """

    dimension: int
    _rows: dict[bytes, int] = field(default_factory=dict)
    _blocks: list[Vectors] = field(default_factory=list)
    _starts: list[int] = field(default_factory=lambda: [0])

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._rows

    def add(self, digests: Sequence[bytes], vectors: Vectors) -> None:
        """Add vectors [N, D] of texts; a text that is there already keeps its vector."""
        start = self._starts[-1]
        for row, digest in enumerate(digests, start):
            self._rows.setdefault(digest, row)
        self._blocks.append(vectors)
        self._starts.append(start + len(vectors))

    def take(self, digests: Sequence[bytes]) -> Vectors:
        """The vectors [N, D] of texts that are all here."""
        rows = np.fromiter((self._rows[digest] for digest in digests), np.int64, len(digests))
        found = np.empty((len(digests), self.dimension), np.float32)
        block_of = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(block_of):
            mine = np.flatnonzero(block_of == number)
            found[mine] = self._blocks[number][rows[mine] - self._starts[number]]
        return found
