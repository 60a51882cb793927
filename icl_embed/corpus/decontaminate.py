"""Word n-grams as 64-bit hashes: the second net for evaluated text in the training data.

The first net is equality of match keys. A shared run of 13 words (GPT-3, arXiv 2005.14165, appendix C)
catches an evaluated sentence inside a longer passage. Texts with fewer words than the run, and scripts
that write without spaces, have no n-grams at all: for them equality is the only net, and the pool's
statistics say how many such rows there are.
"""

from __future__ import annotations

import sys
import unicodedata
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icl_embed.corpus.characters import MULTIPLIER, code_points, mixed

_BLOCK_TEXTS = 1024  # whose numbers stay in a core's cache


@dataclass(frozen=True)
class Words:
    """The words of many texts, one after the other.

    Attributes
        hashes: uint64 [num_words], one hash per word in text order.
        text_of: int64 [num_words], index of the text each word belongs to, ascending.
        num_texts: how many texts there are (some may have no word).
    """

    hashes: np.ndarray
    text_of: np.ndarray
    num_texts: int

    def counts(self) -> np.ndarray:
        """Words per text, int64 [num_texts]."""
        return np.bincount(self.text_of, minlength=self.num_texts)


def split_words(keys: pa.Array) -> Words:
    """Split match keys (``icl_embed.texts.compared_column``) into words of letters, marks and digits.

    A word's hash is a polynomial of its mixed characters, taken from running sums over all texts at once, so
    that equal words have equal hashes wherever they stand.
    """
    blocks = [_split(keys.slice(first, _BLOCK_TEXTS)) for first in range(0, len(keys), _BLOCK_TEXTS)]
    hashes = [np.empty(0, np.uint64), *(hashes for hashes, _ in blocks)]
    text_of = [np.empty(0, np.int64), *(number * _BLOCK_TEXTS + of for number, (_, of) in enumerate(blocks))]
    return Words(np.concatenate(hashes), np.concatenate(text_of), len(keys))


def _split(keys: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    codes, ends = code_points(
        pc.binary_join_element_wise(keys, " ", "")
    )  # so that no word goes on in the next text
    characters = _character_hashes()[codes]
    edges = np.diff(characters != 0, prepend=False)
    places = np.flatnonzero(edges)
    starts, stops = places[::2], places[1::2]
    powers, inverses = _powers(len(codes) + 1)
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(characters * powers[:-1], out=sums[1:])
    hashes = mixed((sums[stops] - sums[starts]) * inverses[starts])
    num_words = np.diff(np.searchsorted(starts, ends), prepend=0)
    return hashes, np.repeat(np.arange(len(ends)), num_words)


def ngram_hashes(words: Words, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash every run of ``size`` words that lies inside one text.

    Returns
        (text index int64 [N], hash uint64 [N]) in text order. With 10⁸ distinct runs the chance that any
        two share a hash is below 0.03 %.
    """
    starts = len(words.hashes) - size + 1
    if starts <= 0:
        return np.empty(0, np.int64), np.empty(0, np.uint64)
    inside = words.text_of[:starts] == words.text_of[size - 1 :]
    runs = np.zeros(starts, np.uint64)
    for offset in range(size):
        runs *= MULTIPLIER
        runs += words.hashes[offset : offset + starts]
    return words.text_of[:starts][inside], runs[inside]


class HashSieve:
    """A set of 64-bit hashes in fixed memory that may take a stranger for a member, and never misses one.

    One bit per hash: with 10⁷ members of 2²⁸ bits, four strangers in a hundred pass.
    """

    def __init__(self, bits: int = 28) -> None:
        self._shift = np.uint64(64 - bits)
        self._words = np.zeros(1 << (bits - 3), np.uint8)

    def add(self, hashes: np.ndarray) -> None:
        """Make hashes (uint64) members."""
        byte, bit = self._place(hashes)
        np.bitwise_or.at(self._words, byte, bit)

    def may_hold(self, hashes: np.ndarray) -> np.ndarray:
        """For each hash whether it may be a member, bool [len(hashes)]."""
        byte, bit = self._place(hashes)
        held: np.ndarray = (self._words[byte] & bit) != 0
        return held

    def _place(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = (hashes * MULTIPLIER) >> self._shift
        return (place >> np.uint64(3)).astype(np.int64), np.left_shift(1, place & np.uint64(7)).astype(
            np.uint8
        )


@cache
def _character_hashes() -> np.ndarray:
    """For each code point a hash if it is a letter, mark or digit, and 0 if not."""
    codes = np.arange(sys.maxunicode + 1, dtype=np.uint64)
    in_words = [unicodedata.category(chr(code))[0] in "LMN" for code in range(sys.maxunicode + 1)]
    return np.where(in_words, mixed(codes), np.uint64(0))


_kept_powers = np.ones((2, 1), np.uint64)


def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first powers of the multiplier and of its inverse among 64-bit words."""
    global _kept_powers  # noqa: PLW0603 - a table that only grows
    kept = _kept_powers
    if kept.shape[1] < count:
        inverse = np.uint64(pow(int(MULTIPLIER), -1, 1 << 64))
        kept = np.ones((2, 2 * count), np.uint64)
        np.cumprod(np.full(2 * count - 1, MULTIPLIER), out=kept[0, 1:])
        np.cumprod(np.full(2 * count - 1, inverse), out=kept[1, 1:])
        _kept_powers = kept
    return kept[0, :count], kept[1, :count]
