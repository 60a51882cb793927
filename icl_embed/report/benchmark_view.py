"""Everything the benchmark page shows, gathered once from ``score`` and ``study`` artefacts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_embed.errors import EvaluationError
from icl_embed.report.benchmark_scores import BenchmarkTable, benchmark_table
from icl_embed.report.facts import signed
from icl_embed.report.view import Headline
from icl_embed.store.manifest import MANIFEST_NAME, Manifest, git_commit, read_manifest
from icl_embed.studies.record import Row, Study, StudyName, read_study
from icl_embed.studies.scored import Statistics, read_scored


@dataclass(frozen=True)
class BenchmarkView:
    """The content of a benchmark page; a study that was not made is None."""

    model: str
    model_fingerprint: str
    date: str
    commit: str
    confidence: int
    table: BenchmarkTable | None
    shots: Study | None
    examples: Study | None
    overhead: Study | None
    overlap: Study | None
    artefacts: tuple[Manifest, ...]

    @property
    def headlines(self) -> tuple[Headline, ...]:
        """The few numbers that sum the page up."""
        found = (
            _gain_tile(self.table),
            _noise_tile(self.examples),
            _cost_tile(self.overhead),
            _overlap_tile(self.overlap),
        )
        return tuple(tile for tile in found if tile)


def gather_benchmark(scores: Sequence[Path], studies: Sequence[Path], how: Statistics) -> BenchmarkView:
    """Read the artefact folders of one model.

    Raises
        EvaluationError: nothing to report, a folder is of another kind, or of several models.
    """
    found = [read_study(folder) for folder in studies]
    scored = read_scored(scores)
    models = {(one.model, one.model_fingerprint) for one in found}
    models |= {(one.scores.model, one.scores.model_fingerprint) for one in scored}
    if len(models) != 1:
        names = ", ".join(sorted(f"{name} ({mark})" for name, mark in models)) or "none"
        raise EvaluationError(f"a benchmark page is about one model, found {names}; choose one with --model")
    [(model, fingerprint)] = models
    by_name: dict[StudyName, Study] = {one.name: one for one in found}
    folders = [folder for folder in (*studies, *scores) if (folder / MANIFEST_NAME).is_file()]
    return BenchmarkView(
        model=model,
        model_fingerprint=fingerprint,
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        commit=git_commit(),
        confidence=round(100 * how.bootstrap.confidence),
        table=benchmark_table(scored, how) if scored else None,
        shots=by_name.get("shots"),
        examples=by_name.get("examples"),
        overhead=by_name.get("overhead"),
        overlap=by_name.get("overlap"),
        artefacts=tuple(read_manifest(folder) for folder in folders),
    )


def main_rows(study: Study) -> list[Row]:
    """The rows of the average over tasks; of the only task where there is no average."""
    averages = [row for row in study.rows if row["is_average"]]
    return averages or [row for row in study.rows if row["task"] == study.rows[0]["task"]]


def tasks_of(study: Study) -> list[str]:
    """Tasks of a study, averages first."""
    averages = [row["task"] for row in study.rows if row["is_average"]]
    return list(dict.fromkeys([*averages, *(row["task"] for row in study.rows)]))


def at(study: Study, **wanted: Any) -> Row | None:
    """The row with these values, if there is one."""
    return next((row for row in study.rows if all(row[name] == wanted[name] for name in wanted)), None)


def _gain_tile(table: BenchmarkTable | None) -> Headline | None:
    line = table.lines[0] if table and table.lines else None
    if table is None or line is None or line.gain is None:
        return None
    gain = line.gain
    certain = "certain" if gain.is_significant else "not certain"
    where = line.label.replace("Average", "average")
    detail = f"{where}; interval {signed(gain.low)} to {signed(gain.high)}, {certain}"
    return Headline(signed(gain.mean), "", f"{table.few} over zero-shot", detail)


def _noise_tile(study: Study | None) -> Headline | None:
    row = (
        next((one for one in main_rows(study) if one["quality"] == "label-noise-100"), None)
        if study
        else None
    )
    if row is None or row["over_clean"] is None:
        return None
    detail = f"{row['task']}; interval {signed(row['over_clean_low'])} to {signed(row['over_clean_high'])}"
    return Headline(signed(row["over_clean"]), "", "every example wrong, against clean ones", detail)


def _cost_tile(study: Study | None) -> Headline | None:
    if study is None:
        return None
    most = max(row["shots"] for row in study.rows)
    shared, full = at(study, shots=most, way="shared"), at(study, shots=most, way="in full")
    zero = at(study, shots=0, way="shared")
    if not (most and shared and full and zero):
        return None
    slower = zero["queries_per_second"] / shared["queries_per_second"]
    saved = shared["queries_per_second"] / full["queries_per_second"]
    detail = f"prefix shared; {saved:.1f} times as fast as encoding every prompt in full"
    return Headline(f"{slower:.2f}", "×", f"time of {most}-shot over zero-shot", detail)


def _overlap_tile(study: Study | None) -> Headline | None:
    if study is None:
        return None
    worst = max(study.rows, key=lambda row: max(row["equal_share"], row["shared_share"]))
    share = max(worst["equal_share"], worst["shared_share"])
    where = (
        f"{worst['role']} of {worst['task']}" if share else f"{len({r['task'] for r in study.rows})} tasks"
    )
    detail = f"{where}, equal or with a shared {study.facts['ngram']}-gram"
    return Headline(f"{100 * share:.1f}", "%", "of evaluated texts seen in training, at most", detail)
