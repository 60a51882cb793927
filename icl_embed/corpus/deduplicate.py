"""Near-duplicate texts by MinHash of character shingles, verified by their true similarity.

Signatures and their bands only propose candidates; a pair counts as near-duplicate when the Jaccard
similarity of its shingle sets really reaches the threshold. So there are no false alarms, and the banding
decides only how many true ones are missed (at most about 2 % at the threshold, fewer above it).

Signatures are those of datasketch 2 (scheme affine32, seed 1), computed for a page of texts at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icl_embed.corpus.characters import MULTIPLIER, code_points, mixed, mixed_32

SHINGLE_CHARACTERS = 5
_MISSED_AT_THRESHOLD = 0.02
_BLOCK_SHINGLES = 1 << 15  # whose numbers stay in a core's own cache


@dataclass(frozen=True)
class Shingles:
    """The hashed runs of five characters of many texts, in text order, with repeats.

    Attributes
        hashes: uint32 [num_shingles].
        starts: int64 [num_texts + 1], where each text's begin; every text has at least one.
    """

    hashes: np.ndarray
    starts: np.ndarray

    def of(self, text: int) -> np.ndarray:
        """The distinct shingles of a text, sorted."""
        return np.unique(self.hashes[self.starts[text] : self.starts[text + 1]])


def shingle_hashes(keys: pa.Array) -> Shingles:
    """Shingles of match keys (``icl_embed.texts.compared_column``). A shorter text is its own shingle."""
    codes, ends = code_points(pc.utf8_rpad(keys, SHINGLE_CHARACTERS, padding="\0"))
    if not len(codes):
        return Shingles(np.empty(0, np.uint32), np.zeros(1, np.int64))
    terms = codes.astype(np.uint64) + np.uint64(1)
    num_runs = len(codes) - SHINGLE_CHARACTERS + 1
    runs = np.zeros(num_runs, np.uint64)
    for offset in range(SHINGLE_CHARACTERS):
        runs += terms[offset : offset + num_runs]
        runs *= MULTIPLIER
    within = np.ones(len(codes), bool)
    for offset in range(1, SHINGLE_CHARACTERS):  # these would go on in the next text
        within[ends - offset] = False
    starts = np.append(0, ends - (SHINGLE_CHARACTERS - 1) * np.arange(1, len(ends) + 1))
    return Shingles((runs >> np.uint64(32)).astype(np.uint32)[within[:num_runs]], starts)


def signatures(shingles: Shingles, permutations: int) -> np.ndarray:
    """MinHash signatures, uint32 [permutations, num_texts]."""
    factors, terms = _permutations(permutations)
    num_texts = len(shingles.starts) - 1
    found = np.empty((permutations, num_texts), np.uint32)
    premixed = mixed_32(shingles.hashes)
    first = 0
    while first < num_texts:
        begin = shingles.starts[first]
        last = max(first + 1, int(np.searchsorted(shingles.starts, begin + _BLOCK_SHINGLES, "right")) - 1)
        block = premixed[begin : shingles.starts[last]]
        segments, permuted = shingles.starts[first:last] - begin, np.empty_like(block)
        for row in range(permutations):
            np.multiply(block, factors[row], out=permuted)
            permuted += terms[row]
            np.minimum.reduceat(permuted, segments, out=found[row, first:last])
        first = last
    return found


def buckets(keys: pa.Array, threshold: float, permutations: int) -> tuple[np.ndarray, Shingles]:
    """The buckets that propose a text: near-duplicates nearly always share one.

    Returns
        (uint64 [num_texts, bands], the texts' shingles).
    """
    shingles, permutations = shingle_hashes(keys), max(permutations, 2)
    bands, rows = choose_bands(threshold, permutations)
    values = signatures(shingles, permutations)[: bands * rows].reshape(bands, rows, -1)
    found = np.repeat(np.arange(bands, dtype=np.uint64)[:, None], values.shape[2], axis=1)
    for row in range(rows):
        found = mixed(found * MULTIPLIER + values[:, row])
    return np.ascontiguousarray(found.T), shingles


class KeptTexts:
    """Walks through texts in order, and keeps the first of every group of near-duplicates.

    Only texts that share a bucket are walked through. What is in memory is a few numbers for each bucket of a
    text; the shingles of kept texts lie in a file.

    Parameters
        threshold: Jaccard similarity of shingles from which two texts are near-duplicates.
        text_of: int64 [num_entries], ascending: the text of each entry, a pair of a text and a bucket.
        bucket_of: uint64 [num_entries], the bucket of each.
        scratch: file opened for writing and reading.
    """

    def __init__(
        self, threshold: float, text_of: np.ndarray, bucket_of: np.ndarray, scratch: BinaryIO
    ) -> None:
        self._threshold = threshold
        names, bucket_of = np.unique(bucket_of, return_inverse=True)
        self._bucket_of = bucket_of.astype(np.int32)
        self.texts, starts, self._text_index = np.unique(text_of, return_index=True, return_inverse=True)
        self._starts = np.append(starts, len(text_of))
        self._newest = np.full(len(names), -1, np.int32)  # entry of the bucket's kept text that came last
        self._before = np.full(len(text_of), -1, np.int32)  # the entry before it in the same bucket
        self._places = np.zeros((len(self.texts), 2), np.int64)  # of shingles in the file
        self._scratch = scratch
        self._end = 0

    def repeated_by(self, index: int, shingles: np.ndarray) -> list[int]:
        """The kept texts that the next one nearly repeats; if there is none, it is kept.

        Parameters
            index: of the text among ``texts``.
            shingles: its distinct shingles, sorted.
        """
        entries = range(self._starts[index], self._starts[index + 1])
        candidates = set()
        for entry in entries:
            other = self._newest[self._bucket_of[entry]]
            while other >= 0:
                candidates.add(int(self._text_index[other]))
                other = self._before[other]
        found = [
            int(self.texts[candidate])
            for candidate in candidates
            if jaccard(shingles, self._read(candidate)) >= self._threshold
        ]
        if not found:
            self._keep(index, entries, shingles)
        return found

    def _keep(self, index: int, entries: range, shingles: np.ndarray) -> None:
        for entry in entries:
            bucket = self._bucket_of[entry]
            self._before[entry] = self._newest[bucket]
            self._newest[bucket] = entry
        self._places[index] = self._end, shingles.nbytes
        self._scratch.write(shingles.tobytes())
        self._end += shingles.nbytes

    def _read(self, index: int) -> np.ndarray:
        start, size = self._places[index]
        self._scratch.flush()
        return np.frombuffer(os.pread(self._scratch.fileno(), size, start), np.uint32)


class IndexedTexts:
    """A few texts in memory, to find those that nearly repeat one of many others.

    Parameters
        keys: match keys.
        threshold: as of ``KeptTexts``.
        permutations: length of the MinHash signature; more finds more, and costs more.
    """

    def __init__(self, keys: pa.Array, threshold: float, permutations: int) -> None:
        self._threshold, self._permutations = threshold, permutations
        found, self._shingles = buckets(keys, threshold, permutations)
        order = np.argsort(found, axis=None, kind="stable")
        self._sorted, self._owner = found.ravel()[order], order // max(1, found.shape[1])

    def matched_by(self, keys: pa.Array) -> set[int]:
        """Indices of the texts that nearly repeat one of these."""
        found, shingles = buckets(keys, self._threshold, self._permutations)
        lows = np.searchsorted(self._sorted, found)
        highs = np.searchsorted(self._sorted, found, side="right")
        pairs = {
            (int(text), int(owner))
            for text, band in np.argwhere(highs > lows)
            for owner in self._owner[lows[text, band] : highs[text, band]]
        }
        return {
            owner
            for text, owner in pairs
            if jaccard(shingles.of(text), self._shingles.of(owner)) >= self._threshold
        }


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """Jaccard similarity of two sorted arrays without repeats."""
    both = np.sort(np.concatenate([left, right]), kind="stable")
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / (len(both) - shared)


def choose_bands(threshold: float, permutations: int) -> tuple[int, int]:
    """(bands, rows): the longest rows that still find nearly all pairs at the threshold.

    A pair of similarity s is proposed with probability 1 - (1 - sʳ)ᵇ. Long rows keep the candidates few.
    """
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if bands >= 2 and (1 - threshold**rows) ** bands <= _MISSED_AT_THRESHOLD:
            return bands, rows
    return permutations, 1


@cache
def _permutations(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Odd factors and terms of the maps h → a h + b among 32-bit words."""
    rng = np.random.RandomState(1)
    factors = rng.randint(0, 1 << 31, count, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors, rng.randint(0, 1 << 32, count, dtype=np.uint32)
