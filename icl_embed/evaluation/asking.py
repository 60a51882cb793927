"""From a setting that was asked for to the exact way of asking a task, and what names it in a key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_embed.config import EvaluateConfig
from icl_embed.errors import ConfigError
from icl_embed.evaluation.leaks import FewShotTask, Strategy, refuse_leaks
from icl_embed.evaluation.tasks.rows import EvaluationInput
from icl_embed.evaluation.tasks.task import BenchmarkTask, TaskFacts
from icl_embed.evaluation.trials import Workbench
from icl_embed.examples import ExampleSet
from icl_embed.few_shot.candidates import Candidates
from icl_embed.few_shot.settings import CLEAN, AskedSetting
from icl_embed.few_shot.sources import ExampleSource, Offered, hash_examples
from icl_embed.few_shot.strategies import choose_setting, draw_rows
from icl_embed.model.cached_encoding import CachingEncoder, Setting
from icl_embed.pool.examples import in_drawn_order

ChangeExamples = Callable[[ExampleSet, Offered, AskedSetting], ExampleSet]
"""Makes the examples of a quality other than clean: noisy labels, off-task, overlong …"""


@dataclass(frozen=True)
class Plan:
    """How a task will be asked.

    Attributes
        asked: the setting.
        key: what decides its examples: a hash of their texts where they are known without the model, else
            the strategy with its options and a hash of what it chooses from.
        make: chooses; the encoder is asked only by strategies that look at vectors or scores.
    """

    asked: AskedSetting
    key: dict[str, Any]
    make: Callable[[CachingEncoder], Setting]


def plan_setting(
    asked: AskedSetting,
    task: BenchmarkTask,
    offered: Offered,
    *,
    instruction: str,
    config: EvaluateConfig,
    source: ExampleSource,
    change: ChangeExamples | None = None,
) -> Plan:
    """Plan one setting of a task that has candidates, or zero-shot.

    Raises
        ConfigError: a quality that nobody makes, or one for examples that differ between queries.
    """
    if not asked.shots:
        return Plan(asked, {}, lambda _: Setting(asked.name, instruction))
    if asked.quality != CLEAN and (change is None or asked.selection not in ("fixed", "random")):
        raise ConfigError(
            f"examples of quality {asked.quality!r} need the selection fixed or random and a way to make them"
        )
    if asked.selection in ("fixed", "random"):
        examples = _drawn(asked, task.facts, offered)
        if change is not None and asked.quality != CLEAN:
            examples = change(examples, offered, asked)
        known = Setting(asked.name, instruction, examples)
        return Plan(asked, {"texts": hash_examples(examples)}, lambda _: known)
    key = {"candidates": offered.fingerprint, "options": config.selection.model_dump(mode="json")}
    if asked.selection == "search" and source.pool_dir is not None:
        key["pool"] = source.pool_dir.name
    config = config.model_copy(update={"shots": asked.shots})
    return Plan(asked, key, _Chooser(asked, task, offered, instruction, config, source))


def checked_setting(plan: Plan, task: BenchmarkTask, encoder: CachingEncoder) -> Setting:
    """Choose the examples of a plan, and look at every one that any query would be shown.

    Raises
        EvaluationError: one of them shows an evaluated text.
        PoolError: there is nothing to search by.
    """
    setting = plan.make(encoder)
    if plan.asked.shots:
        sets = setting.selection(task.query_texts()).sets
        shown = dict.fromkeys(example for examples in sets for example in examples)
        refuse_leaks(task.facts, list(shown), task.evaluated_texts())
    return setting


def _drawn(asked: AskedSetting, facts: TaskFacts, offered: Offered) -> ExampleSet:
    """What the two strategies choose that look at no vector, so need no model to say it."""
    rows = offered.rows
    if asked.selection == "random":
        picked = [rows[row] for row in draw_rows(len(rows), asked.shots, task=facts.name, seed=asked.seed)]
    else:
        picked = list(rows if offered.in_order else in_drawn_order(rows, facts.name, asked.seed))
    return tuple(row.example for row in picked[: asked.shots])


@dataclass(frozen=True)
class _Chooser:
    """A strategy that looks at vectors or scores."""

    asked: AskedSetting
    task: BenchmarkTask
    offered: Offered
    instruction: str
    config: EvaluateConfig
    source: ExampleSource

    def __call__(self, encoder: CachingEncoder) -> Setting:
        if self.asked.selection == "search":
            bench = self._bench(encoder)
            chosen = bench.setting(bench.search().positions)
        else:
            candidates = Candidates(self.task.facts.name, self.instruction, self.offered.rows, encoder)
            chosen = choose_setting(self.asked.selection, candidates, self.config, seed=self.asked.seed)
        return Setting(self.asked.name, self.instruction, chosen.examples, chosen.choose)

    def _bench(self, encoder: CachingEncoder) -> Workbench:
        facts, seed = self.task.facts, self.asked.seed
        if self.source.pool_dir is not None:  # it has negatives and scores, which candidates have not
            return Workbench.prepare(
                self.source.pool_dir,
                self.source.dataset_of(facts),
                encoder.encoder,
                self.config,
                seed=seed,
                exclude_texts=sorted(self.task.evaluated_texts()),
            )
        described = EvaluationInput(
            facts.name, facts.kind, self.instruction, Path(), facts.data_fingerprint, trained_on=False
        )
        return Workbench.of_examples(self.offered.rows, described, encoder.encoder, self.config, seed=seed)


def strategy_of(config: EvaluateConfig, *, seed: int) -> Strategy | None:
    """What ``evaluate.examples_strategy`` names; None for the pool's own draw, which evaluation makes itself.

    ``seed`` splits and searches; ``evaluate.example_seed`` draws, as it does for fixed examples.
    """
    if config.examples_strategy == "fixed":
        return None

    def choose(task: FewShotTask) -> Setting:
        if config.examples_strategy == "search":
            bench = Workbench.prepare(
                task.pool_dir,
                task.dataset,
                task.encoder,
                config,
                seed=seed,
                exclude_texts=task.exclude_texts,
            )
            return bench.setting(bench.search().positions)
        candidates = Candidates.read(
            task.pool_dir,
            task.dataset,
            instruction=task.instruction,
            encoder=task.encoder,
            exclude_texts=task.exclude_texts,
        )
        return choose_setting(config.examples_strategy, candidates, config, seed=config.example_seed)

    return choose
