"""What goes into an encoder and comes out: texts that are texts, each once, and vectors that are numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from icl_embed.errors import DataError, ModelError

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
