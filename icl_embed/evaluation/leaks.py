"""No example may show what is evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from icl_embed.config import LABEL_KINDS, Kind
from icl_embed.errors import EvaluationError
from icl_embed.evaluation.tasks.rows import SearchData, TaskData, query_texts
from icl_embed.examples import Example
from icl_embed.texts import compared_form


def evaluated_texts(data: TaskData) -> set[str]:
    """Every text that may not appear in an example: test queries, and the passages that answer them."""
    texts = set(query_texts(data))
    if isinstance(data, SearchData):
        texts.update(data.passages[name] for names in data.relevant.values() for name in names)
    return texts


class NamedTask(Protocol):
    """What a message about a task needs."""

    @property
    def name(self) -> str:
        """As tables call it."""

    @property
    def kind(self) -> Kind:
        """Kind of task."""


def refuse_leaks(dataset: NamedTask, examples: Sequence[Example], forbidden: Iterable[str]) -> None:
    """Refuse examples that repeat an evaluated text, as texts are compared.

    The response of a label task is a label's name and may occur in a test text.

    Raises
        EvaluationError: an example leaks.
    """
    known = {compared_form(text) for text in forbidden}
    for number, example in enumerate(examples):
        shown = [example.query] if dataset.kind in LABEL_KINDS else [example.query, example.response]
        for text in shown:
            if compared_form(text) in known:
                raise EvaluationError(
                    f"{dataset.name}: example {number} shows a text of the test split ({text[:60]!r}); "
                    "its score would be worthless, rebuild the pool"
                )
