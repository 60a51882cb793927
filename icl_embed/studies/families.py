"""Whether an evaluated set's domain was trained on, as far as names tell."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Relation = Literal["trained on", "family trained on", "unseen"]

# What benchmarks append to the name of a data set.
_ENDINGS = re.compile(
    r"(classification|retrieval|clustering|reranking|pairclassification|benchmark|test|hardnegatives|"
    r"p2p|s2s|v\d+)+$"
)
SHORTEST_FAMILY = 3  # sts12 and sts13 are both of the family sts


def relation_to(task: str, trained: Iterable[str]) -> tuple[Relation, list[str]]:
    """How an evaluated set relates to the training sets, and to which of them.

    ``trained on``: a training set has its name, up to case, punctuation and what benchmarks append.
    ``family trained on``: the name of one, without trailing numbers, begins the other's. Names are weak
    evidence: the overlap of the texts is the strong one.
    """
    names = sorted(set(trained))
    same = [name for name in names if _plain(name) == _plain(task)]
    if same:
        return "trained on", same
    family = [name for name in names if _is_family(_stem(name), _stem(task))]
    return ("family trained on", family) if family else ("unseen", [])


def _plain(name: str) -> str:
    letters = re.sub(r"[^a-z0-9]", "", name.casefold())
    return _ENDINGS.sub("", letters) or letters


def _stem(name: str) -> str:
    first = re.split(r"[^a-z]", name.casefold().lstrip("0123456789"))[0]
    return _ENDINGS.sub("", first) or first


def _is_family(first: str, second: str) -> bool:
    shorter, longer = sorted((first, second), key=len)
    return len(shorter) >= SHORTEST_FAMILY and longer.startswith(shorter)
