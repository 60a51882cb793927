"""The characters of many texts in one array, and how they are hashed: for shingles and words of a page."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplication is a bijection of 64-bit words


def code_points(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The characters of texts (a string array without nulls), one text after the other.

    Returns
        (code points uint32 [num_characters], end of each text int64 [num_texts]).
    """
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    characters = memoryview(texts.buffers()[2] or b"")[offsets[0] : offsets[-1]]
    codes = np.frombuffer(str(characters, "utf-8").encode("utf-32-le"), "<u4")
    return codes, np.cumsum(pc.utf8_length(texts).to_numpy(zero_copy_only=False), dtype=np.int64)


def mixed(words: np.ndarray) -> np.ndarray:
    """64-bit words mapped one to one, so that a small change of a word changes about half of its bits.

    This is the last step of MurmurHash3.
    """
    found: np.ndarray = words ^ (words >> np.uint64(33))
    found *= np.uint64(0xFF51AFD7ED558CCD)
    found ^= found >> np.uint64(33)
    found *= np.uint64(0xC4CEB9FE1A85EC53)
    found ^= found >> np.uint64(33)
    return found


def mixed_32(words: np.ndarray) -> np.ndarray:
    """The same for 32-bit words."""
    found: np.ndarray = words ^ (words >> np.uint32(16))
    found *= np.uint32(0x85EBCA6B)
    found ^= found >> np.uint32(13)
    found *= np.uint32(0xC2B2AE35)
    found ^= found >> np.uint32(16)
    return found
