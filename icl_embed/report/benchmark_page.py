"""The benchmark page: scores, shot curves, robustness, cost and overlap of one model in one HTML file.

Like the report of a run it holds no scripts, asks for nothing, and follows the reader's light or dark theme.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from icl_embed.benchmark.asked import CLEAN
from icl_embed.report.benchmark_charts import Bar, CurvePoint, Series, bar_chart, curve_chart
from icl_embed.report.benchmark_scores import LEVEL
from icl_embed.report.benchmark_view import BenchmarkView, at, gather_benchmark, main_rows, tasks_of
from icl_embed.report.page import HERE, WIDTHS, make_environment
from icl_embed.studies.record import Row, Study
from icl_embed.studies.scored import Statistics

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
