"""Whether the systems compute the same vectors, text by text and token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SHOWN = 3


def compare(
    ours: np.ndarray,
    theirs: np.ndarray,
    our_tokens: Sequence[Sequence[int]],
    their_tokens: Sequence[Sequence[int]],
    texts: Sequence[str],
) -> dict[str, Any]:
    """Least cosine over all texts, and over those that both feed the model as the same token ids.

    Returns
        a record with the number of texts, how many have other tokens, the first few of these, and the cosines;
        ``min_cosine_same_tokens`` is ``None`` if there is no such text.
    """
    cosines = cosine(ours, theirs)
    same = np.array([list(a) == list(b) for a, b in zip(our_tokens, their_tokens, strict=True)], bool)
    different = np.flatnonzero(~same)
    return {
        "texts": len(texts),
        "texts_with_other_tokens": len(different),
        "examples_of_other_tokens": [
            {"text": texts[row][:200], "ours": len(our_tokens[row]), "theirs": len(their_tokens[row])}
            for row in different[:SHOWN]
        ],
        "min_cosine_all": round(float(cosines.min()), 7),
        "min_cosine_same_tokens": round(float(cosines[same].min()), 7) if same.any() else None,
    }


def cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Row by row, [N]."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return (left * right).sum(axis=1) / norms
