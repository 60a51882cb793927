"""The studies ``shots`` and ``examples``: settings for the benchmark's grid, then rows of its scores.

Every score is an artefact of its own, shared with ``icl-embed eval run``: what either has measured, the other
finds. The study is an artefact too, made from those scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from icl_embed.benchmark.asked import CLEAN, AskedSetting, settings_of
from icl_embed.benchmark.example_sources import Offered, offer_examples
from icl_embed.benchmark.grid import Outcome, Progress, RunRequest, run_grid
from icl_embed.benchmark.models import OpenedModel
from icl_embed.benchmark.opening import open_task
from icl_embed.config import ExampleStrategy
from icl_embed.errors import EvaluationError, IclEmbedError
from icl_embed.evaluate.measurement import Bootstrap
from icl_embed.examples import ExampleSet
from icl_embed.store import Artefact, StageKey, Store
from icl_embed.studies.corruptions import OFF_TASK, checked_quality, corrupt
from icl_embed.studies.curves import quality_rows, shot_rows
from icl_embed.studies.record import STAGE, Row, Study, StudyName, write_study
from icl_embed.studies.scored import Statistics, read_scored

VERSION = 1


@dataclass(frozen=True)
class Qualities:
    """Makes the examples of any quality; a ``ChangeExamples`` of the grid.

    Attributes
        offered: the candidates of all tasks; off-task examples of one are drawn from the next.
    """

    offered: Sequence[Offered] = ()

    def __call__(self, examples: ExampleSet, offered: Offered, asked: AskedSetting) -> ExampleSet:
        """The examples in the quality that was asked for.

        Raises
            EvaluationError: they cannot be made, for example off-task without a second task.
        """
        candidates = self._next(offered) if asked.quality == OFF_TASK else offered.rows
        return corrupt(asked.quality, examples, candidates, asked.seed)

    def _next(self, offered: Offered) -> Sequence[Any]:
        known = [one.fingerprint for one in self.offered]
        mine = known.index(offered.fingerprint) if offered.fingerprint in known else 0
        others = [*self.offered[mine + 1 :], *self.offered[:mine]]
        return next((one.rows for one in others if one.rows and one.fingerprint != offered.fingerprint), ())


def quality_settings(
    shots: int, qualities: Sequence[str], seeds: Sequence[int], *, selection: ExampleStrategy = "random"
) -> tuple[AskedSetting, ...]:
    """Zero-shot, clean examples, and each quality; raises ConfigError for an unknown one."""
    names = dict.fromkeys([CLEAN, *map(checked_quality, qualities)])
    shown = [AskedSetting(shots, selection, seed, name) for name in names for seed in seeds]
    return (AskedSetting(0), *shown)


def study_shots(
    request: RunRequest,
    model: OpenedModel,
    store: Store,
    *,
    shots: Sequence[int],
    seeds: Sequence[int],
    selection: ExampleStrategy = "random",
    progress: Progress | None = None,
) -> tuple[Artefact, Outcome]:
    """The shot-count curve over tasks and seeds; zero-shot is always measured.

    Raises
        EvaluationError: no task gave a score.
        ModelError, StoreError: as ``run_grid``.
    """
    asked = tuple(settings_of(sorted({0, *shots}), [selection], seeds))
    outcome = run_grid(replace(request, asked=asked), model, store, progress=progress)
    facts = {"shots": sorted({0, *shots}), "seeds": list(seeds), "selection": selection}
    return _publish("shots", outcome, request, model, store, facts), outcome


def study_examples(
    request: RunRequest,
    model: OpenedModel,
    store: Store,
    *,
    shots: int,
    qualities: Sequence[str],
    seeds: Sequence[int],
    progress: Progress | None = None,
) -> tuple[Artefact, Outcome]:
    """Scores by the quality of the examples, with zero-shot and clean examples beside them.

    Raises
        ConfigError: an unknown quality.
        EvaluationError: no task gave a score.
        ModelError, StoreError: as ``run_grid``.
    """
    asked = quality_settings(shots, qualities, seeds)
    change = Qualities(_candidates(request) if OFF_TASK in qualities else ())
    outcome = run_grid(replace(request, asked=asked, change=change), model, store, progress=progress)
    facts = {"shots": shots, "seeds": list(seeds), "selection": "random"}
    return _publish("examples", outcome, request, model, store, facts), outcome


def _candidates(request: RunRequest) -> list[Offered]:
    found = []
    for name in request.tasks:
        try:
            found.append(offer_examples(open_task(name, request.places), request.source))
        except IclEmbedError:  # the run itself will say what is wrong with this task
            continue
    return found


def _publish(
    name: StudyName,
    outcome: Outcome,
    request: RunRequest,
    model: OpenedModel,
    store: Store,
    facts: dict[str, Any],
) -> Artefact:
    artefacts = [one.artefact for one in outcome.measured]
    if not artefacts:
        reasons = [
            f"{one.task}: {one.reason}" for one in (*outcome.missing, *outcome.failed, *outcome.absent)
        ]
        raise EvaluationError(f"the study {name} has no score: {'; '.join(reasons[:5]) or 'no task'}")
    config = request.config
    how = Statistics(Bootstrap(config.bootstrap_resamples, config.confidence, request.seed))
    without = (*outcome.missing, *outcome.absent, *outcome.failed)
    notes = [f"{one.task} {one.setting} was not measured: {one.reason}".replace("  ", " ") for one in without]
    settings = {
        "study": name,
        "model": model.about.fingerprint,
        "facts": facts,
        "notes": notes,
        "statistics": [config.bootstrap_resamples, config.confidence, request.seed],
    }
    inputs = {f"score {number}": one.reference for number, one in enumerate(artefacts)}
    key = StageKey(STAGE, VERSION, settings, inputs, f"{name} study of {model.about.name}")

    def produce(folder: Any) -> dict[str, Any]:
        scored = read_scored([one.path for one in artefacts])
        rows: Sequence[Row] = shot_rows(scored, how) if name == "shots" else quality_rows(scored, how)
        about = model.about
        return write_study(
            folder, Study(name, about.name, about.fingerprint, tuple(rows), {**facts, "notes": notes})
        )

    return store.build(key, produce)
