"""What is encoded, in a form that every worker understands (standard library alone)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Workload:
    """Texts to encode: queries of one task, zero-shot or with examples, or passages.

    Attributes
        instruction: empty for passages.
        examples: (query, response) pairs that every query is shown.
    """

    texts: tuple[str, ...]
    instruction: str = ""
    examples: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, data: dict[str, Any]) -> Workload:
        """Back from JSON."""
        examples = tuple((query, response) for query, response in data["examples"])
        return cls(tuple(data["texts"]), data["instruction"], examples)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)

    def in_round(self, number: int) -> Workload:
        """The same work with its examples in another order.

        The prefix of each round is new to everybody, so nothing that was kept from an earlier round helps,
        and its length stays what it is.
        """
        turn = number % max(1, len(self.examples))
        return dataclasses.replace(self, examples=self.examples[turn:] + self.examples[:turn])
