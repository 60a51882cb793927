"""What goes through the model at once: texts that are texts, each once, in batches of about equal cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from icl_embed.errors import DataError, ModelError
from icl_embed.prompts import Tokens


@dataclass(frozen=True)
class Group:
    """Rows that continue one prefix; without a prefix, rows that have nothing in common.

    A training group holds the prefix as tokens: it is encoded once, with gradient, for all its rows.

    Attributes
        demonstrations: examples that are embedded first; their vectors fill the prefix's slots, in order.
    """

    rows: Sequence[Tokens]
    prefix: Tokens | tuple[()] = ()
    demonstrations: Sequence[Sequence[int]] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens that are computed for the group."""
        return len(self.prefix) + sum(map(len, self.rows)) + sum(map(len, self.demonstrations))


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


Item = TypeVar("Item")
Made = TypeVar("Made")


def distinct(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """The different texts in order of appearance, and for each text its position among them.

    Raises
        DataError: an item is not a text, or one text was given instead of a list.
    """
    if isinstance(texts, str):
        raise DataError("expected a list of texts, found one text; put it in a list")
    places: dict[str, int] = {}
    place_of = []
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"texts[{number}] must be a text, found {type(text).__name__}")
        place_of.append(places.setdefault(text, len(places)))
    return list(places), place_of


def refuse_not_finite(vectors: Tensor, unique: Sequence[str], places: Sequence[int]) -> None:
    """Raise ModelError naming the first text whose vector is not finite."""
    broken = ~torch.isfinite(vectors).all(dim=1)
    if not bool(broken.any()):
        return
    first = int(broken.nonzero()[0])  # unique texts are in order of appearance, so this is the first of all
    raise ModelError(
        f"the vector of text {places.index(first)} is not finite ({unique[first][:60]!r}; "
        f"{int(broken.sum())} of {len(unique)} texts); the model's weights or dtype are broken"
    )


def ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """``map(make, items)`` in which the next result is made while the caller uses the last one."""
    with ThreadPoolExecutor(1) as executor:
        waiting: Future[Made] | None = None
        for item in items:
            following = executor.submit(make, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
