"""Models against tasks: every cell with its interval, averages only over what all ranked entrants share."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from icl_embed.errors import EvaluationError
from icl_embed.evaluate.measurement import Bootstrap, Measured, average
from icl_embed.evaluate.statistics import Interval
from icl_embed.results.database import rows
from icl_embed.results.entrants import Entrant, all_entrants, known_or_suggest
from icl_embed.results.stored import StoredScore, read_measured

AVERAGE = "average"


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
    single task then takes nothing from the others, and simply has no average.

    Parameters
        tasks: only these; all if empty.
        sort_by: ``average`` or a task.

    Raises
        EvaluationError: an unknown task, or two versions of a task's data on one board.
    """
    known = sorted({score.task for score in scores})
    for name in (*tasks, *([sort_by] if sort_by != AVERAGE else [])):
        known_or_suggest("task", name, known)
    shown = tuple(task for task in known if not tasks or task in tasks)
    entrants = [one for one in all_entrants(scores) if set(one.scores) & set(shown)]
    _refuse_two_versions(shown, entrants)
    full = [set(one.scores) for one in entrants if 2 * len(set(one.scores) & set(shown)) >= len(shown)]
    common = tuple(task for task in shown if all(task in members for members in full))
    reasons = _reasons(path)
    measured: list[dict[str, Measured]] = [{} for _ in entrants]
    cells: list[dict[str, Cell]] = [{} for _ in entrants]
    for task in shown:  # all entrants of a task share its resamples
        tested = [index for index, one in enumerate(entrants) if task in one.scores]
        found = read_measured(path, [entrants[index].scores[task] for index in tested])
        for index, one in zip(tested, found, strict=True):
            measured[index][task] = one
            cells[index][task] = _cell(entrants[index].scores[task], one.interval(how))
        for entrant, shows in zip(entrants, cells, strict=True):
            if task not in shows:
                reason = reasons.get((entrant.fingerprint, entrant.setting, task), "")
                shows[task] = Cell(None, reason)
    places = [
        _place(entrant, mine, shows, common, how)
        for entrant, mine, shows in zip(entrants, measured, cells, strict=True)
    ]
    return Leaderboard(shown, common, tuple(_ranked(places, sort_by)))


def _ranked(places: Sequence[Place], sort_by: str) -> list[Place]:
    def value(place: Place) -> float:
        interval = place.average if sort_by == AVERAGE else place.cells[sort_by].interval
        return -1.0 if interval is None else interval.mean

    ordered = sorted(places, key=lambda place: (-value(place), place.model, place.setting))
    return [
        dataclasses.replace(place, rank=position if value(place) >= 0.0 else None)
        for position, place in enumerate(ordered, start=1)
    ]


def _place(
    entrant: Entrant,
    measured: dict[str, Measured],
    cells: dict[str, Cell],
    common: Sequence[str],
    how: Bootstrap,
) -> Place:
    is_complete = bool(common) and all(task in measured for task in common)
    whole = average([measured[task] for task in common], how) if is_complete else None
    return Place(None, entrant.model, entrant.fingerprint, entrant.setting, whole, cells, len(measured))


def _cell(seeds: Sequence[StoredScore], interval: Interval) -> Cell:
    trained_on = any(score.trained_on for score in seeds)
    return Cell(interval, "", len(seeds), trained_on, seeds[-1].reference)


def _reasons(path: Path) -> dict[tuple[str, str, str], str]:
    found = rows(path, "SELECT model_fingerprint, setting, task, reason FROM absences")
    return {(fingerprint, setting, task): reason for fingerprint, setting, task, reason in found}


def _refuse_two_versions(tasks: Sequence[str], entrants: Sequence[Entrant]) -> None:
    for task in tasks:
        of_data: dict[str, list[str]] = {}
        for entrant in entrants:
            for score in entrant.scores.get(task, ()):
                of_data.setdefault(score.data_fingerprint, []).append(entrant.label)
        if len(of_data) > 1:
            listed = "; ".join(
                f"{data or 'unknown'}: {', '.join(sorted(set(who)))}" for data, who in of_data.items()
            )
            raise EvaluationError(
                f"{task} was scored on {len(of_data)} versions of its data ({listed}), which have no "
                "common ranking: evaluate again, or choose with --task and --model"
            )
