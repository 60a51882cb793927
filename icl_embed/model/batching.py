"""Batches of about equal cost: sequences sorted by length, cut where padded tokens reach a budget."""

from __future__ import annotations

from collections.abc import Sequence


def plan_batches(lengths: Sequence[int], batch_tokens: int, *, extra_tokens: int = 0) -> list[list[int]]:
    """Indices of each batch, longest first.

    The longest batch comes first so that a machine with too little memory fails at once, not at the end.

    Parameters
        lengths: tokens per sequence.
        batch_tokens: upper limit of rows × (longest row + extra_tokens); a longer row is a batch of its own.
        extra_tokens: tokens that every row attends to besides its own (a shared prefix).
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    limit = 0
    for index in order:
        if not batches or len(batches[-1]) >= limit:
            limit = max(1, batch_tokens // (lengths[index] + extra_tokens))
            batches.append([])
        batches[-1].append(index)
    return batches
