"""What a task's examples are chosen from, with the vectors that say which are alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from icl_embed.examples import ExampleSet
from icl_embed.few_shot.settings import ZERO_SHOT
from icl_embed.model.cached_encoding import CachingEncoder, Encoder, Setting, Vectors
from icl_embed.pool.examples import Candidate, eligible_examples, in_drawn_order
from icl_embed.texts import compared_forms


def without_texts(rows: Iterable[Candidate], texts: Iterable[str]) -> list[Candidate]:
    """The candidates that show none of the texts, as texts are compared.

    The response of a label task is a label's name and may well occur among texts: it is not looked at.
    """
    rows, known = list(rows), set(compared_forms(texts))
    queries = compared_forms([row.example.query for row in rows])
    responses = compared_forms(["" if row.label else row.example.response for row in rows])
    return [
        row
        for row, query, response in zip(rows, queries, responses, strict=True)
        if query not in known and (row.label or response not in known)
    ]


@dataclass(frozen=True)
class Candidates:
    """The candidate examples of one task.

    Attributes
        task: name of the data set.
        instruction: of the task.
        rows: the candidates, in the pool's order.
        encoder: gives zero-shot query vectors; each text is encoded once.
    """

    task: str
    instruction: str
    rows: tuple[Candidate, ...]
    encoder: CachingEncoder

    @classmethod
    def read(
        cls,
        pool_dir: Path,
        task: str,
        *,
        instruction: str,
        encoder: Encoder,
        exclude_texts: Sequence[str] = (),
    ) -> Candidates:
        """Everything the pool allows to be shown for a task, but no text of ``exclude_texts``.

        Raises
            PoolError: no such pool or data set, or nothing is left.
        """
        rows = eligible_examples(pool_dir, task, exclude_texts=exclude_texts)
        return cls(task, instruction, tuple(rows), CachingEncoder(encoder))

    @property
    def has_labels(self) -> bool:
        """Whether candidates have a class."""
        return any(row.label for row in self.rows)

    @cached_property
    def vectors(self) -> Vectors:
        """Zero-shot query vectors [N, D] of the candidates' queries."""
        return self.query_vectors([row.example.query for row in self.rows])

    def query_vectors(self, queries: Sequence[str]) -> Vectors:
        """Zero-shot vectors [N, D] of queries of the task."""
        return self.encoder.queries(queries, Setting(ZERO_SHOT, self.instruction))

    def drawn(self, seed: int) -> list[int]:
        """Positions in the order of the pool's own seeded draw."""
        position = {id(row): number for number, row in enumerate(self.rows)}
        return [position[id(row)] for row in in_drawn_order(self.rows, self.task, seed)]

    def examples(self, positions: Iterable[int]) -> ExampleSet:
        """The examples at some positions, in that order."""
        return tuple(self.rows[position].example for position in positions)
