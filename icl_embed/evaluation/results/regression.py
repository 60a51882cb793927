"""Did scores fall? The scores of today against the last accepted ones, item by item.

A fall is reported when the paired interval lies below zero *and* the randomisation test, corrected over all
tasks and settings (Holm), is below the level; the averages of the settings are a second family. Tests are
two-sided and only falls count, so each family errs with half the level and both together with the level.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.measurement import Measured
from icl_embed.evaluation.results.compare import Pair, Procedure, Row, average_row, compare_pairs
from icl_embed.evaluation.scores import read_measurements, read_scores
from icl_embed.evaluation.significance import holm
from icl_embed.store.files import sha256_of
from icl_embed.store.manifest import library_versions

PACKAGE = Path(__file__).resolve().parents[2]
SOURCES = ("prompts.py", "examples.py", "bm25.py", "model", "few_shot", "evaluation")
LIBRARIES = ("torch", "transformers", "mteb")


def scoring_code(package: Path = PACKAGE) -> dict[str, str]:
    """Hash of the source that decides scores, and library versions; equal ones give equal scores.

    A changed comment changes the hash too: scoring once more is cheaper than missing a change.
    """
    digest = hashlib.sha256()
    for name in SOURCES:
        path = package / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{file.relative_to(package).as_posix()}:{sha256_of(file)}\n".encode())
    versions = library_versions()
    return {"source": digest.hexdigest()[:16], **{name: versions[name] for name in LIBRARIES}}


class RegressionError(EvaluationError):
    """Scores fell by more than chance explains, or are no longer measured."""


@dataclass(frozen=True)
class Scored:
    """One task in one setting at one time; ``data`` names the version of the task's data."""

    task: str
    setting: str
    metric: str
    data: str
    measured: Measured

    @property
    def name(self) -> str:
        """``SciFact, zero-shot (ndcg_at_10)``: scores of equal names can be compared."""
        return f"{self.task}, {self.setting} ({self.metric})"


@dataclass(frozen=True)
class Verdict:
    """What changed; ``first`` is today's score, ``second`` the accepted one.

    Attributes
        rows: per task and setting; ``averages``: per setting.
        lost: settings that were measured and are not any more, though their task still is.
        new: what has no accepted score yet.
        dropped: tasks that the preset does not evaluate any more; that is a decision, not a fall.
    """

    rows: tuple[Row, ...]
    averages: tuple[Row, ...]
    lost: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    level: float

    @property
    def fallen(self) -> tuple[Row, ...]:
        """Scores that fell beyond chance."""
        return tuple(row for row in (*self.rows, *self.averages) if self.fell(row))

    @property
    def is_regression(self) -> bool:
        """Whether anything fell or was lost."""
        return bool(self.fallen or self.lost)

    def fell(self, row: Row) -> bool:
        """Whether this score fell beyond chance."""
        return row.difference.high < 0.0 and row.p_holm <= self.level

    def rose(self, row: Row) -> bool:
        """Whether this score rose beyond chance."""
        return row.difference.low > 0.0 and row.p_holm <= self.level

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {**asdict(self), "fallen": [row.task for row in self.fallen]}


def read_scored(folder: Path, data: str) -> list[Scored]:
    """Every setting of a score's folder; another draw of its examples is the same setting.

    Raises
        EvaluationError: it is not one.
    """
    scores = read_scores(folder)
    measured = read_measurements(folder, scores)
    groups = {result.setting: result.group for result in scores.results}
    return [Scored(scores.dataset, groups[name], scores.metric, data, one) for name, one in measured.items()]


def judge(before: Sequence[Scored], now: Sequence[Scored], how: Procedure) -> Verdict:
    """Compare today's scores with accepted ones.

    A task whose items changed is compared as two independent samples, which sees large falls only, and is
    left out of the averages.

    Raises
        EvaluationError: a score is not defined.
    """
    accepted = {one.name: one for one in before}
    today = {one.name: one for one in now}
    pairs = {name: _pair(today[name], accepted[name]) for name in today if name in accepted}
    tasks = {one.task for one in now}
    gone = [one for name, one in accepted.items() if name not in today]
    return Verdict(
        rows=compare_pairs(list(pairs.values()), how),
        averages=_averages([(today[name].setting, pair) for name, pair in pairs.items()], how),
        lost=tuple(one.name for one in gone if one.task in tasks),
        new=tuple(name for name in today if name not in accepted),
        dropped=tuple(dict.fromkeys(one.task for one in gone if one.task not in tasks)),
        level=how.level,
    )


def _pair(today: Scored, accepted: Scored) -> Pair:
    one, other = today.measured, accepted.measured
    same_items = today.data == accepted.data and (one.ids, one.aggregation) == (other.ids, other.aggregation)
    return Pair(today.name, today.metric, one, other, same_items=same_items)


def _averages(pairs: Sequence[tuple[str, Pair]], how: Procedure) -> tuple[Row, ...]:
    rows = []
    for setting in dict.fromkeys(setting for setting, _ in pairs):
        members = [pair for name, pair in pairs if name == setting and pair.same_items]
        if len(members) > 1:
            row = average_row(members, how)
            rows.append(replace(row, task=f"{row.task}, {setting}"))
    adjusted = holm([row.p_value for row in rows])
    return tuple(replace(row, p_holm=p_holm) for row, p_holm in zip(rows, adjusted, strict=True))


def verdict_table(verdict: Verdict) -> str:
    """The verdict as Markdown, falls first."""
    heads = "| | score | accepted | now | difference | interval | p (Holm) |"
    lines = [f"**{summary(verdict)}**", "", heads, "|---|---|---|---|---|---|---|"]
    rows = [*verdict.averages, *verdict.rows]
    for row in sorted(rows, key=lambda row: (not verdict.fell(row), row not in verdict.averages)):
        lines.append(_line(verdict, row))
    lines += [f"| lost | {name} | | not measured | | | |" for name in verdict.lost]
    lines += [f"| new | {name} | | | | | |" for name in verdict.new]
    lines += [f"| dropped | {name} | | not evaluated | | | |" for name in verdict.dropped]
    explained = (
        "Scores in %, paired item by item. A fall: the interval lies below zero and p, corrected over all "
        f"rows (Holm), is at most {verdict.level:g}; averages are corrected among themselves."
    )
    return "\n".join([*lines, "", explained, ""])


def summary(verdict: Verdict) -> str:
    """The verdict in one line."""
    if not verdict.is_regression:
        return f"no score fell beyond chance ({len(verdict.rows)} compared)"
    parts = [f"{row.task} {100 * row.second:.1f} → {100 * row.first:.1f}" for row in verdict.fallen]
    parts += [f"{name} is not measured any more" for name in verdict.lost]
    count = len(verdict.rows) + len(verdict.averages) + len(verdict.lost)
    return f"{len(parts)} of {count} scores fell: {'; '.join(parts)}"


def _line(verdict: Verdict, row: Row) -> str:
    mark = "**fell**" if verdict.fell(row) else "rose" if verdict.rose(row) else ""
    difference = row.difference
    cells = [
        mark,
        row.task + ("" if row.same_items else " (data changed, unpaired)"),
        f"{100 * row.second:.1f}",
        f"{100 * row.first:.1f}",
        f"{100 * difference.mean:+.1f}",
        f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}",
        f"{row.p_holm:.4f}",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
