"""Word n-grams as 64-bit hashes: the second net for evaluated text in the training data.

from icl_embed.texts import compared_column
The first net is equality of match keys. A shared run of 13 words (GPT-3, arXiv 2005.14165, appendix C)
catches an evaluated sentence inside a longer passage. Texts with fewer words than the run, and scripts
that write without spaces, have no n-grams at all: for them equality is the only net, and the pool's
statistics say how many such rows there are.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icl_embed.texts import compared_column

_BETWEEN_WORDS = r"[^\p{L}\p{M}\p{N}]+"
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplication is a bijection of 64-bit words


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


def split_words(texts: pa.Array) -> Words:
    """Split texts into lower-case words of letters, marks and digits."""
    lists = pc.split_pattern_regex(compared_column(texts), pattern=_BETWEEN_WORDS)
    words = pc.list_flatten(lists)
    text_of = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    filled = pc.not_equal(words, "")
    keep = filled.to_numpy(zero_copy_only=False)
    vocabulary = pc.dictionary_encode(words.filter(filled))
    hash_of = np.fromiter((_hash(word) for word in vocabulary.dictionary.to_pylist()), np.uint64)
    codes = vocabulary.indices.to_numpy(zero_copy_only=False)
    hashes = hash_of[codes] if len(hash_of) else np.empty(0, np.uint64)
    return Words(hashes, text_of[keep].astype(np.int64), len(texts))


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
        runs = runs * _MULTIPLIER + words.hashes[offset : offset + starts]
    return words.text_of[:starts][inside], runs[inside]


def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
