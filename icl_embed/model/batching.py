"""Batches of about equal cost: sequences sorted by length, cut where padded tokens reach a budget."""

from __future__ import annotations

from collections.abc import Sequence


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices of each batch, longest first.

    The longest batch comes first so that a machine with too little memory fails at once, not at the end.

    Parameters
        lengths: tokens per sequence.
        batch_tokens: upper limit of rows × longest row; a longer row is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    limit = 0
    for index in order:
        if not batches or len(batches[-1]) >= limit:
            limit = max(1, batch_tokens // lengths[index])
            batches.append([])
        batches[-1].append(index)
    return batches
