"""The examples of a task: chosen from the pool, never from what is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from icl_embed.config import LABEL_KINDS, EvaluateConfig, Kind
from icl_embed.errors import EvaluationError, PoolError
from icl_embed.evaluation.tasks.rows import EvaluationInput, SearchData, TaskData, query_texts
from icl_embed.examples import Example
from icl_embed.few_shot.settings import FEW_SHOT
from icl_embed.model.cached_encoding import Encoder, Setting


@dataclass(frozen=True)
class FewShotTask:
    """What a strategy may know of a task that is evaluated: where its candidates are, and what to leave out.

    Attributes
        dataset: name of the data set.
        instruction: of the task.
        pool_dir: pool artefact.
        exclude_texts: evaluated texts; no example may show one.
        encoder: the model that is evaluated.
    """

    dataset: str
    instruction: str
    pool_dir: Path
    exclude_texts: tuple[str, ...]
    encoder: Encoder


Strategy = Callable[[FewShotTask], Setting]
"""Chooses the examples of a task; raises PoolError when there are none."""


def few_shot_setting(
    dataset: EvaluationInput,
    data: TaskData,
    pool_dir: Path | None,
    config: EvaluateConfig,
    *,
    encoder: Encoder,
    strategy: Strategy | None = None,
) -> tuple[Setting | None, str]:
    """The few-shot setting of a task, or none and the reason why there is none.

    Without a strategy the examples are the pool's own draw, one set for all queries.

    Raises
        EvaluationError: an example that any test query would be asked with is part of the test split; or the
            config names a strategy and none was given.
    """
    if strategy is None and config.examples_strategy != "fixed":
        raise EvaluationError(
            f"evaluate.examples_strategy is {config.examples_strategy}, but no strategy was passed; "
            "evaluation.asking.strategy_of makes it, as the flows do"
        )
    if strategy is None or pool_dir is None:
        examples, reason = examples_for(dataset, data, pool_dir, config)
        return (Setting(FEW_SHOT, dataset.instruction, examples) if examples else None), reason
    forbidden = evaluated_texts(data)
    task = FewShotTask(dataset.name, dataset.instruction, pool_dir, tuple(sorted(forbidden)), encoder)
    try:
        setting = strategy(task)
    except PoolError as error:
        return None, str(error)
    shown = dict.fromkeys(one for examples in setting.selection(query_texts(data)).sets for one in examples)
    refuse_leaks(dataset, list(shown), forbidden)
    return setting, ""


def examples_for(
    dataset: EvaluationInput, data: TaskData, pool_dir: Path | None, config: EvaluateConfig
) -> tuple[tuple[Example, ...], str]:
    """The task's examples, or none and the reason why there are none.

    Raises
        EvaluationError: the pool gave an example that is part of the test split.
    """
    if pool_dir is None:
        return (), "no example pool was given"
    from icl_embed.pool.examples import choose_examples

    forbidden = evaluated_texts(data)
    try:
        chosen = choose_examples(
            pool_dir, dataset.name, config.shots, config.example_seed, exclude_texts=sorted(forbidden)
        )
    except PoolError as error:
        return (), str(error)
    if not chosen:
        return (), f"the pool holds no eligible examples of {dataset.name}"
    refuse_leaks(dataset, chosen, forbidden)
    return tuple(chosen), ""


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
    """Refuse examples that repeat an evaluated text, up to case and spacing.

    The response of a label task is a label's name and may occur in a test text.

    Raises
        EvaluationError: an example leaks.
    """
    known = {_plain(text) for text in forbidden}
    for number, example in enumerate(examples):
        shown = [example.query] if dataset.kind in LABEL_KINDS else [example.query, example.response]
        for text in shown:
            if _plain(text) in known:
                raise EvaluationError(
                    f"{dataset.name}: example {number} shows a text of the test split ({text[:60]!r}); "
                    "its score would be worthless, rebuild the pool"
                )


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
