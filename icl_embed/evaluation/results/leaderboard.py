"""Models against tasks, and one model's scores over time."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.measurement import Bootstrap, Interval, Measured, average
from icl_embed.evaluation.results.compare import (
    Entrant,
    StoredScore,
    all_entrants,
    known_or_suggest,
    read_measured,
)
from icl_embed.evaluation.results.database import rows


@dataclass(frozen=True)
class Moment:
    """One score as it was made.

    Attributes
        change: to the score before it on the same task and setting; None for the first.
        differs: which of weights, data and code are not those of the score before.
    """

    score: StoredScore
    change: float | None
    differs: tuple[str, ...]


def history_of(
    scores: Sequence[StoredScore], model: str, *, task: str = "", setting: str = ""
) -> list[Moment]:
    """All scores of a model's name, or of a fingerprint's start, by task and setting, oldest first.

    Raises
        EvaluationError: no such score.
    """
    mine = [
        score
        for score in scores
        if (score.model == model or score.model_fingerprint.startswith(model))
        and task in ("", score.task)
        and setting in ("", score.setting, score.setting_of_all_seeds)
    ]
    if not model or not mine:
        known = ", ".join(sorted({score.model for score in scores}))
        raise EvaluationError(
            f"no scores of {model!r} for this task and setting; models are {known}; "
            "icl-embed eval leaderboard lists what was measured"
        )
    ordered = sorted(mine, key=lambda one: (one.task, one.setting, one.created, one.reference))
    moments = []
    for _, group in groupby(ordered, key=lambda one: (one.task, one.setting)):
        before: StoredScore | None = None
        for score in group:
            moments.append(_moment(score, before))
            before = score
    return moments


def _moment(score: StoredScore, before: StoredScore | None) -> Moment:
    if before is None:
        return Moment(score, None, ())
    names = {"model_fingerprint": "weights", "data_fingerprint": "data", "git_commit": "code"}
    differs = tuple(word for name, word in names.items() if getattr(score, name) != getattr(before, name))
    return Moment(score, score.mean - before.mean, differs)


AVERAGE = "average"
Reasons = dict[tuple[str, str, str], str]
"""Why there is no score: (model fingerprint, setting, task) -> reason."""


@dataclass(frozen=True)
class Cell:
    """One entrant on one task; ``interval`` is None where it was not measured, and ``reason`` may say why."""

    interval: Interval | None
    reason: str = ""
    seeds: int = 1
    trained_on: bool = False
    reference: str = ""


@dataclass(frozen=True)
class Place:
    """One entrant's line.

    Attributes
        rank: from 1; None for an entrant without an average.
        average: over the board's common tasks; None when one of them is missing.
        cells: per task of the board.
        measured: tasks it was measured on.
    """

    rank: int | None
    model: str
    fingerprint: str
    setting: str
    average: Interval | None
    cells: dict[str, Cell]
    measured: int


@dataclass(frozen=True)
class Leaderboard:
    """All entrants, best first, over all tasks; ``common`` are the tasks of the average."""

    tasks: tuple[str, ...]
    common: tuple[str, ...]
    places: tuple[Place, ...]


def build_leaderboard(
    path: Path,
    scores: Sequence[StoredScore],
    how: Bootstrap,
    *,
    tasks: Collection[str] = (),
    sort_by: str = AVERAGE,
) -> Leaderboard:
    """Rank entrants.

    The common tasks are those of every entrant that was measured on at least half of all tasks: one run of a
    single task then takes nothing from the others, and simply has no average. Scores on an older version of a
    task's data have no place on the board.

    Parameters
        tasks: only these; all if empty.
        sort_by: ``average`` or a task.

    Raises
        EvaluationError: an unknown task.
    """
    known = sorted({score.task for score in scores})
    for name in tasks:
        known_or_suggest("task", name, known)
    shown = tuple(task for task in known if not tasks or task in tasks)
    if sort_by != AVERAGE:
        known_or_suggest("task", sort_by, shown)
    current, old = _split_versions(scores)
    entrants = [one for one in all_entrants(current) if set(one.scores) & set(shown)]
    full = [set(one.scores) for one in entrants if 2 * len(set(one.scores) & set(shown)) >= len(shown)]
    common = tuple(task for task in shown if all(task in members for members in full))
    measured = _measure(path, entrants, shown, how)
    reasons = _absences(path) | old
    places = [
        _place(entrant, mine, shown, common, how, reasons)
        for entrant, mine in zip(entrants, measured, strict=True)
    ]
    return Leaderboard(shown, common, tuple(_ranked(places, sort_by)))


def _measure(
    path: Path, entrants: Sequence[Entrant], tasks: Sequence[str], how: Bootstrap
) -> list[dict[str, Measured]]:
    """The measurements of each entrant by task; resampled task by task, because entrants share the draws."""
    measured: list[dict[str, Measured]] = [{} for _ in entrants]
    for task in tasks:
        tested = [index for index, one in enumerate(entrants) if task in one.scores]
        if tested:
            found = read_measured(path, [entrants[index].scores[task] for index in tested])
            for index, one in zip(tested, found, strict=True):
                one.replicates(how)
                measured[index][task] = one
    return measured


def _ranked(places: Sequence[Place], sort_by: str) -> list[Place]:
    def interval(place: Place) -> Interval | None:
        return place.average if sort_by == AVERAGE else place.cells[sort_by].interval

    def order(place: Place) -> tuple[bool, float, str, str]:
        found = interval(place)  # of a correlation it may be below zero, and still has a rank
        return found is None, -found.mean if found else 0.0, place.model, place.setting

    return [
        dataclasses.replace(place, rank=position if interval(place) else None)
        for position, place in enumerate(sorted(places, key=order), start=1)
    ]


def _place(
    entrant: Entrant,
    measured: dict[str, Measured],
    shown: Sequence[str],
    common: Sequence[str],
    how: Bootstrap,
    reasons: Reasons,
) -> Place:
    cells = {}
    for task in shown:
        if task in measured:
            cells[task] = _cell(entrant.scores[task], measured[task].interval(how))
        else:
            cells[task] = Cell(None, reasons.get((entrant.fingerprint, entrant.setting, task), ""))
    is_complete = bool(common) and all(task in measured for task in common)
    whole = average([measured[task] for task in common], how) if is_complete else None
    return Place(None, entrant.model, entrant.fingerprint, entrant.setting, whole, cells, len(measured))


def _cell(seeds: Sequence[StoredScore], interval: Interval) -> Cell:
    trained_on = any(score.trained_on for score in seeds)
    return Cell(interval, "", len(seeds), trained_on, seeds[-1].reference)


def _absences(path: Path) -> Reasons:
    found = rows(path, "SELECT model_fingerprint, setting, task, reason FROM absences")
    return {(fingerprint, setting, task): reason for fingerprint, setting, task, reason in found}


def _split_versions(scores: Sequence[StoredScore]) -> tuple[list[StoredScore], Reasons]:
    """Scores on the newest version of each task's data; for the others, why they have no cell."""
    newest = {score.task: score.data_fingerprint for score in sorted(scores, key=lambda one: one.created)}
    kept, old = [], {}
    for score in scores:
        if score.data_fingerprint == newest[score.task]:
            kept.append(score)
        else:
            place = (score.model_fingerprint, score.setting_of_all_seeds, score.task)
            old[place] = f"scored on another version of the data: {score.data_fingerprint or 'unknown'}"
    return kept, old
