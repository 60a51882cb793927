"""The benchmark page: scores, shot curves, robustness, cost and overlap of one model.

Like the report of a run it holds no scripts, asks for nothing, and follows the reader's light or dark theme.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.measurement import Interval, Measured, average_over_seeds
from icl_embed.experiments.curves import (
    Scored,
    Statistics,
    by_task,
    compared,
    read_scored,
    summarised,
    with_holm,
)
from icl_embed.experiments.record import Row, Study, StudyName, read_study
from icl_embed.few_shot.settings import CLEAN
from icl_embed.report.charts import Bar, CurvePoint, Series, bar_chart, curve_chart
from icl_embed.report.facts import signed
from icl_embed.report.page import HERE, WIDTHS, make_environment
from icl_embed.report.score_table import KIND_ORDER, METRIC_NAMES
from icl_embed.report.view import Headline
from icl_embed.store.manifest import MANIFEST_NAME, Manifest, git_commit, read_manifest

LEVEL = 0.05  # of the corrected p-value
ZERO = "zero-shot"
MOST_COLUMNS = 4
USUAL_SHOTS = 5


@dataclass(frozen=True)
class Gain:
    """A paired difference with its p-value after correction over all tasks.

    Attributes
        detectable: the true difference found four times out of five; None without spread.
    """

    mean: float
    low: float
    high: float
    p_value: float
    detectable: float | None

    @property
    def style(self) -> str:
        """The CSS class: coloured only where the corrected test is certain."""
        if self.p_value >= LEVEL:
            return "even"
        return "up" if self.mean > 0 else "down"

    @property
    def is_significant(self) -> bool:
        """Whether the corrected p-value is below the level."""
        return self.p_value < LEVEL


@dataclass(frozen=True)
class ScoreLine:
    """One task, or the average of several."""

    label: str
    kind: str
    detail: str
    is_average: bool
    trained_on: bool
    cells: Mapping[str, Interval]
    gain: Gain | None


@dataclass(frozen=True)
class BenchmarkTable:
    """Settings side by side; ``few`` is the one whose gain over zero-shot is shown ("" without any)."""

    columns: tuple[str, ...]
    few: str
    lines: tuple[ScoreLine, ...]


def benchmark_table(scored: Sequence[Scored], how: Statistics) -> BenchmarkTable:
    """The table of one model; seeds of a setting are averaged, corrupted examples are left to their study.

    Raises
        EvaluationError: several models, or scores of different data that have one name.
    """
    measured = {task: _settings(members) for task, members in by_task(scored).items()}
    few = _headline_setting(measured)
    columns = _columns(measured, few)
    about = {one.task: one for one in scored}
    tasks = sorted(measured, key=lambda task: (KIND_ORDER.index(about[task].scores.kind), task))
    complete = [task for task in tasks if all(name in measured[task] for name in (ZERO, few))]
    groups = [(task, [task]) for task in tasks]
    if few and len(complete) > 1:
        groups.insert(0, (f"Average of {len(complete)} tasks", complete))
    rows = [_row(label, members, measured, few, how) for label, members in groups]
    corrected = with_holm(rows, "zero")
    lines = tuple(
        _line(row, members, columns, measured, about, how)
        for row, (_, members) in zip(corrected, groups, strict=True)
    )
    return BenchmarkTable(columns, few, lines)


def _settings(members: Sequence[Scored]) -> dict[str, Measured]:
    groups: dict[str, list[Scored]] = {}
    for one in members:
        if one.asked.quality == CLEAN:
            groups.setdefault(_column(one), []).append(one)
    return {name: average_over_seeds([one.measurement for one in draws]) for name, draws in groups.items()}


def _column(one: Scored) -> str:
    if not one.asked.shots:
        return ZERO
    strategy = "" if one.asked.selection == "random" else f" {one.asked.selection}"
    return f"{one.asked.shots}-shot{strategy}"


def _headline_setting(measured: Mapping[str, Mapping[str, Measured]]) -> str:
    """The few-shot setting that most tasks have; of those the usual count, else the largest."""
    counts: dict[str, int] = {}
    for settings in measured.values():
        for name in settings:
            if name != ZERO:
                counts[name] = counts.get(name, 0) + 1
    usual = f"{USUAL_SHOTS}-shot"
    return max(counts, key=lambda name: (counts[name], name == usual, _shots(name)), default="")


def _shots(name: str) -> int:
    return 0 if name == ZERO else int(name.partition("-")[0])


def _columns(measured: Mapping[str, Mapping[str, Measured]], few: str) -> tuple[str, ...]:
    names = sorted(
        {name for settings in measured.values() for name in settings}, key=lambda name: (_shots(name), name)
    )
    if len(names) > MOST_COLUMNS:  # the whole curve is a section of its own
        names = [name for name in (ZERO, few) if name in names]
    return tuple(names)


def _row(
    label: str,
    tasks: Sequence[str],
    measured: Mapping[str, Mapping[str, Measured]],
    few: str,
    how: Statistics,
) -> dict[str, Any]:
    found = [measured[task] for task in tasks]
    has_both = all(few in one and ZERO in one for one in found)
    pairs = [(one[few], one[ZERO]) for one in found] if has_both else []
    return {"label": label, "is_average": len(tasks) > 1, **compared(pairs, how, "zero")}


def _line(
    row: Mapping[str, Any],
    tasks: Sequence[str],
    columns: Sequence[str],
    measured: Mapping[str, Mapping[str, Measured]],
    about: Mapping[str, Scored],
    how: Statistics,
) -> ScoreLine:
    cells = {
        name: Interval(**summarised([measured[task][name] for task in tasks], how))
        for name in columns
        if all(name in measured[task] for task in tasks)
    }
    gain = None
    if row["over_zero"] is not None:
        names = ("over_zero", "over_zero_low", "over_zero_high", "over_zero_holm", "over_zero_mde")
        gain = Gain(*(row[name] for name in names))
    if row["is_average"]:
        return ScoreLine(row["label"], "", "mean of main scores", True, False, cells, gain)
    scores = about[tasks[0]].scores
    parts = [METRIC_NAMES.get(scores.metric, scores.metric), f"{scores.results[0].num_queries} test items"]
    parts += [f"from the {scores.served_from}"] if scores.served_from else []
    return ScoreLine(row["label"], scores.kind, ", ".join(parts), False, scores.trained_on, cells, gain)


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


PAGE_NAME = "benchmark.html"
QUALITY_NAMES = {
    "zero-shot": "no examples",
    CLEAN: "clean",
    "label-noise-25": "25 % wrong",
    "label-noise-50": "50 % wrong",
    "label-noise-100": "all wrong",
    "shuffled": "shuffled responses",
    "off-task": "off-task",
    "duplicated": "one, repeated",
    "long": "very long",
}
MEBIBYTE = 1 << 20


def build_benchmark_page(
    scores: Sequence[Path], studies: Sequence[Path], out_dir: Path, how: Statistics | None = None
) -> Path:
    """Write ``benchmark.html`` from score and study folders of one model; returns its path.

    Raises
        EvaluationError: nothing to report, a folder is of another kind, or of several models.
        StoreError: a manifest is damaged.
    """
    view = gather_benchmark(scores, studies, how or Statistics())
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / PAGE_NAME
    path.write_text(render_benchmark(view), encoding="utf-8")
    return path


def render_benchmark(view: BenchmarkView) -> str:
    """The page."""
    environment = make_environment(autoescape=True)
    environment.filters["certainty"] = certainty
    environment.filters["quality_name"] = quality_name
    environment.filters["p_value"] = lambda value: f"{value:.3f}" if value >= 0.001 else "< 0.001"
    style = Markup((HERE / "report.css").read_text(encoding="utf-8"))  # noqa: S704 - our own file
    template = environment.get_template("benchmark.html.j2")
    charts = {name: _charts(view, width) for name, width in WIDTHS.items()}
    return template.render(view=view, style=style, charts=charts, places=_places(view), at=at)


def quality_name(quality: str) -> str:
    """A quality in plain words."""
    return QUALITY_NAMES.get(quality, quality)


def certainty(row: Row, name: str) -> str:
    """The CSS class of a difference: coloured only where the corrected test is certain."""
    gap, p_value = row[f"over_{name}"], row[f"over_{name}_holm"]
    if gap is None or p_value is None or p_value >= LEVEL:
        return "even"
    return "up" if gap > 0 else "down"


def _places(view: BenchmarkView) -> dict[str, Any]:
    """Lists that the template walks along."""
    found: dict[str, Any] = {"notes": []}
    for study in (view.shots, view.examples, view.overhead, view.overlap):
        found["notes"] += [note for note in (study.facts.get("notes", ()) if study else ())]
    found["notes"] = list(dict.fromkeys(found["notes"]))
    if view.shots:
        found["shots"] = sorted({row["shots"] for row in view.shots.rows})
        found["shots_tasks"] = tasks_of(view.shots)
    if view.examples:
        found["qualities"] = list(dict.fromkeys(row["quality"] for row in view.examples.rows))
        found["quality_tasks"] = tasks_of(view.examples)
    if view.overhead:
        found["largest_difference"] = max(row["largest_difference"] for row in view.overhead.rows)
        found["costs"] = [(name, caption) for name, (caption, _) in _costs(view.overhead).items()]
        machine = view.overhead.facts.get("machine", {})
        found["machine"] = [(name.replace("_", " "), str(value)) for name, value in machine.items()]
    return found


def _charts(view: BenchmarkView, width: int) -> dict[str, Markup]:
    drawn: dict[str, Markup] = {}
    if view.shots:
        drawn["shots"] = curve_chart(
            _gain_series(view.shots),
            title="Gain over zero-shot by shots, in points",
            labels=("examples", "points"),
            width=width,
        )
    if view.examples:
        bars = [_bar(row) for row in main_rows(view.examples) if row["over_zero"] is not None]
        if bars:
            drawn["quality"] = bar_chart(
                bars, title="Gain over zero-shot by example quality, in points", width=width
            )
    if view.overhead:
        for name, (caption, series) in _costs(view.overhead).items():
            drawn[name] = curve_chart(
                series, title=f"{caption} by shots", labels=("examples", ""), width=width
            )
    return drawn


def _gain_series(study: Study) -> list[Series]:
    """The average strong and the tasks quiet; a single task is strong itself."""
    tasks = tasks_of(study)
    main = main_rows(study)[0]["task"]
    return [
        Series(
            task,
            "s0" if task == main else "s2",
            _gains([row for row in study.rows if row["task"] == task]),
            task == main,
        )
        for task in tasks
    ]


def _gains(rows: Sequence[Row]) -> tuple[CurvePoint, ...]:
    return tuple(
        CurvePoint(
            row["shots"],
            *(100 * (row[name] or 0.0) for name in ("over_zero", "over_zero_low", "over_zero_high")),
        )
        for row in rows
    )


def _bar(row: Row) -> Bar:
    values = (100 * row[name] for name in ("over_zero", "over_zero_low", "over_zero_high"))
    against = row["over_clean"]
    detail = "" if against is None else f"{100 * against:+.1f} against clean".replace("-", "\N{MINUS SIGN}")
    return Bar(quality_name(row["quality"]), detail, certainty(row, "zero"), *values)


def _costs(study: Study) -> dict[str, tuple[str, list[Series]]]:
    """Chart name -> caption and its two lines; what the machine did not tell has no chart."""
    found = {
        "tokens": ("Tokens through the model per query", _two_ways(study, _tokens)),
        "operations": (
            "GFLOPs per query in a batch",
            _two_ways(study, lambda row: (row["gflops_per_query_in_batch"],) * 3),
        ),
        "latency": (
            "Milliseconds for one query: median, band up to p95",
            _two_ways(
                study, lambda row: (row["latency_p50_ms"], row["latency_p50_ms"], row["latency_p95_ms"])
            ),
        ),
        "throughput": (
            "Queries per second in a batch: median, band over rounds",
            _two_ways(
                study, lambda row: tuple(row[f"queries_per_second{end}"] for end in ("", "_low", "_high"))
            ),
        ),
        "memory": (
            "Peak memory above the model, MiB",
            _two_ways(study, lambda row: ((row["peak_bytes"] or 0) / MEBIBYTE,) * 3),
        ),
    }
    if any(row["peak_bytes"] is None for row in study.rows):
        del found["memory"]
    return found


def _tokens(row: Row) -> tuple[float, ...]:
    tokens = row["query_tokens"] + (row["prefix_tokens"] if row["way"] == "in full" else 0)
    return (tokens,) * 3


def _two_ways(study: Study, figures: Callable[[Row], tuple[float, ...]]) -> list[Series]:
    """Value, low and high of every row, as one line per way."""
    return [
        Series(
            way,
            style,
            tuple(CurvePoint(row["shots"], *figures(row)) for row in study.rows if row["way"] == way),
        )
        for way, style in (("in full", "s2"), ("shared", "s0"))
    ]
