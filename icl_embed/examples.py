"""The few-shot example, and which query is asked with which: records that every room passes around."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Example:
    """A (query, response) pair shown in the prompt, before the query that is to be embedded."""

    query: str
    response: str


ExampleSet = tuple[Example, ...]


def example_of(value: object) -> Example | None:
    """The example in a piece of JSON, ``{"query": …, "response": …}``; None if it is not one."""
    if not isinstance(value, dict):
        return None
    query, response = value.get("query"), value.get("response")
    return Example(query, response) if isinstance(query, str) and isinstance(response, str) else None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which examples each query is asked with.

    Queries with the same set share one prefix, so the distinct sets are what a selection costs.

    Attributes
        sets: the distinct example sets.
        set_of: for each query the position of its set.
    """

    sets: tuple[ExampleSet, ...]
    set_of: tuple[int, ...]

    @classmethod
    def same_for_all(cls, examples: Sequence[Example], num_queries: int) -> Selection:
        """One set for every query."""
        return cls((tuple(examples),), (0,) * num_queries)

    @classmethod
    def of(cls, sets: Sequence[ExampleSet]) -> Selection:
        """From the set of each query; equal sets become one."""
        position: dict[ExampleSet, int] = {}
        set_of = tuple(position.setdefault(examples, len(position)) for examples in sets)
        return cls(tuple(position), set_of)

    def groups(self) -> list[tuple[ExampleSet, list[int]]]:
        """Each set with the positions of its queries; a set that no query uses is left out."""
        rows: list[list[int]] = [[] for _ in self.sets]
        for query, number in enumerate(self.set_of):
            rows[number].append(query)
        return [(examples, mine) for examples, mine in zip(self.sets, rows, strict=True) if mine]


class Chooser(Protocol):
    """Chooses examples per query; the choice for a text never depends on the texts beside it."""

    @property
    def name(self) -> str:
        """What it does, with its settings."""

    def __call__(self, queries: Sequence[str]) -> Selection:
        """The examples of each query."""
