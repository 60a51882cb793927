"""From a setting that was asked for to the exact way of asking a task, and what names it in a key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from icl_embed.config import EvaluateConfig
from icl_embed.errors import ConfigError
from icl_embed.evaluation.leaks import refuse_leaks
from icl_embed.evaluation.tasks.rows import EvaluationInput
from icl_embed.evaluation.tasks.task import BenchmarkTask, TaskFacts
from icl_embed.evaluation.trials import Workbench
from icl_embed.examples import ExampleSet
from icl_embed.few_shot.candidates import Candidates
from icl_embed.few_shot.settings import CLEAN, AskedSetting
from icl_embed.few_shot.sources import ExampleSource, Offered
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
        make: chooses; the encoder is asked only by strategies that look at vectors or scores.
        known: the examples, where they are known without the model.
    """

    asked: AskedSetting
    make: Callable[[CachingEncoder], Setting]
    known: ExampleSet = ()


def plan_setting(
    asked: AskedSetting,
    task: BenchmarkTask,
    offered: Offered | None,
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
    if not asked.shots or offered is None:
        return Plan(asked, lambda _: Setting(asked.name, instruction))
    if asked.quality != CLEAN and (change is None or asked.selection not in ("fixed", "random")):
        raise ConfigError(
            f"examples of quality {asked.quality!r} need the selection fixed or random and a way to make them"
        )
    if asked.selection in ("fixed", "random"):
        examples = _drawn(asked, task.facts, offered, source)
        if change is not None and asked.quality != CLEAN:
            examples = change(examples, offered, asked)
        known = Setting(asked.name, instruction, examples)
        return Plan(asked, lambda _: known, examples)
    config = config.model_copy(update={"shots": asked.shots})
    return Plan(asked, _Chooser(asked, task, offered, instruction, config, source))


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


def _drawn(asked: AskedSetting, facts: TaskFacts, offered: Offered, source: ExampleSource) -> ExampleSet:
    """What the two strategies choose that look at no vector, so need no model to say it."""
    rows = offered.rows
    if asked.selection == "random":
        picked = [rows[row] for row in draw_rows(len(rows), asked.shots, task=facts.name, seed=asked.seed)]
    else:
        name = source.dataset_of(facts)  # what `icl-embed pool examples` shows is what is asked with
        picked = list(rows if offered.in_order else in_drawn_order(rows, name, asked.seed))
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
        described = EvaluationInput(facts.name, facts.kind, self.instruction, Path(), facts.data_fingerprint)
        return Workbench.of_examples(self.offered.rows, described, encoder.encoder, self.config, seed=seed)
