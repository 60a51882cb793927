"""Near-duplicate texts by MinHash of character shingles (datasketch), verified by their true similarity.

MinHash and its banded index only propose candidates; a pair counts as near-duplicate when the Jaccard
similarity of its shingle sets really reaches the threshold. So there are no false alarms, and the banding
decides only how many true ones are missed (at most about 2 % at the threshold, fewer above it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from datasketch import MinHash, MinHashLSH

SHINGLE_CHARACTERS = 5
_MISSED_AT_THRESHOLD = 0.02
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class NearDuplicates:
    """An index of texts that finds an earlier, nearly equal text.

    Texts are given as match keys (``icl_embed.texts``). Texts shorter than a shingle are their own shingle.

    Parameters
        threshold: Jaccard similarity of 5-character shingles from which two texts are near-duplicates.
        permutations: length of the MinHash signature; more finds more, and costs more.
    """

    def __init__(self, threshold: float, *, permutations: int = 64) -> None:
        self.threshold = threshold
        permutations = max(permutations, 2)  # one band cannot be indexed
        self._empty = MinHash(num_perm=permutations, seed=1, hashfunc=int)
        bands = choose_bands(threshold, permutations)
        self._index = MinHashLSH(num_perm=permutations, params=bands)
        self._shingles: dict[str, np.ndarray] = {}

    def add(self, name: str, text: str) -> None:
        """Put a text into the index under a unique name."""
        shingles = shingle_hashes(text)
        self._insert(name, shingles, self._signature(shingles))

    def find(self, text: str) -> list[str]:
        """Names of all indexed near-duplicates of a text, in sorted order."""
        shingles = shingle_hashes(text)
        return self._matches(shingles, self._signature(shingles))

    def find_or_add(self, name: str, text: str) -> str | None:
        """The first near-duplicate's name; if there is none, add the text and return None."""
        shingles = shingle_hashes(text)
        signature = self._signature(shingles)
        matches = self._matches(shingles, signature)
        if matches:
            return matches[0]
        self._insert(name, shingles, signature)
        return None

    def _insert(self, name: str, shingles: np.ndarray, signature: MinHash) -> None:
        self._index.insert(name, signature)
        self._shingles[name] = shingles

    def _matches(self, shingles: np.ndarray, signature: MinHash) -> list[str]:
        candidates = sorted(self._index.query(signature))
        return [name for name in candidates if jaccard(shingles, self._shingles[name]) >= self.threshold]

    def _signature(self, shingles: np.ndarray) -> MinHash:
        signature = self._empty.copy()
        signature.update_batch(shingles.tolist())
        return signature


def find_near_duplicates(
    texts: Iterable[tuple[str, str]], *, threshold: float, permutations: int = 64
) -> Mapping[str, str]:
    """Walk (name, match key) pairs in order and keep the first of every group of near-duplicates.

    Returns
        the name of each dropped text -> the name of the kept text it repeats.
    """
    index = NearDuplicates(threshold, permutations=permutations)
    dropped = {}
    for name, text in texts:
        kept = index.find_or_add(name, text)
        if kept is not None:
            dropped[name] = kept
    return dropped


def shingle_hashes(text: str) -> np.ndarray:
    """The distinct hashed runs of five characters of a text, sorted, uint32 [num_shingles]."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    if len(codes) < SHINGLE_CHARACTERS:
        codes = np.concatenate([codes, np.zeros(SHINGLE_CHARACTERS - len(codes), np.uint64)])
    starts = len(codes) - SHINGLE_CHARACTERS + 1
    runs = np.zeros(starts, np.uint64)
    for offset in range(SHINGLE_CHARACTERS):
        runs = (runs + codes[offset : offset + starts] + np.uint64(1)) * _MULTIPLIER
    return np.unique((runs >> np.uint64(32)).astype(np.uint32))


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """Jaccard similarity of two sorted arrays without repeats."""
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared)


def choose_bands(threshold: float, permutations: int) -> tuple[int, int]:
    """(bands, rows): the longest rows that still find nearly all pairs at the threshold.

    A pair of similarity s is proposed with probability 1 - (1 - sʳ)ᵇ. Long rows keep the candidates few.
    """
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if bands >= 2 and (1 - threshold**rows) ** bands <= _MISSED_AT_THRESHOLD:
            return bands, rows
    return permutations, 1
