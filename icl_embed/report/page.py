"""The report stage: gather the facts of a run, write ``index.html`` and ``report.md``.

The page is one file: no scripts, no requests (its content security policy forbids them), styles and charts
inline. All values are escaped by the template engine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from icl_embed.report.charts import (
    CurvePoint,
    IntervalRow,
    Mark,
    Point,
    Series,
    cost_chart,
    curve_chart,
    interval_chart,
    line_chart,
)
from icl_embed.report.facts import ReportInputs, TrainingFacts, signed
from icl_embed.report.reranking import pareto_chart
from icl_embed.report.score_table import ScoreRow
from icl_embed.report.view import ReportView, gather

HERE = Path(__file__).parent
WIDTHS = {"wide": 760, "narrow": 350}  # each chart is drawn for a desk and for a phone; CSS shows one


def build_report(inputs: ReportInputs, out_dir: Path) -> dict[str, Any]:
    """Write the report of a run; returns counts for the manifest.

    Raises
        EvaluationError, DataError, StoreError: a folder is not what it should be.
    """
    view = gather(inputs)
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "index.html").write_text(render_html(view), encoding="utf-8")
    (out_dir / "report.md").write_text(render_markdown(view), encoding="utf-8")
    return {
        "datasets": len(view.table.rows),
        "unseen": sum(not row.trained_on for row in view.table.rows),
        "artefacts": len(view.artefacts),
        "limitations": len(view.limitations),
    }


def render_html(view: ReportView) -> str:
    """The page."""
    environment = make_environment(autoescape=True)
    style = Markup((HERE / "report.css").read_text(encoding="utf-8"))  # noqa: S704 - our own file
    return environment.get_template("report.html.j2").render(view=view, style=style, charts=_charts(view))


def render_markdown(view: ReportView) -> str:
    """The same content for a terminal, a merge request or a mail."""
    environment = make_environment(autoescape=False)
    environment.finalize = markdown_text
    return environment.get_template("report.md.j2").render(view=view)


def make_environment(*, autoescape: bool) -> Environment:
    """The template engine with our number formats."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=autoescape,  # noqa: S701 - off only for Markdown, where finalize escapes every value
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    environment.filters["signed"] = signed
    environment.filters["number"] = _number
    environment.filters["duration"] = duration
    return environment


def markdown_text(value: Any) -> str:
    """Any value as one line of Markdown that shows just that value; the ``finalize`` of a template."""
    if isinstance(value, Markup):  # the output of a macro, escaped value by value
        return value
    text = re.sub(r"[\r\n\t]+", " ", str(value))  # a line break would end a table row
    for character in "\\`*_[]|":
        text = text.replace(character, f"\\{character}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _number(value: Any) -> str:
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return f"{int(value):,}"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Seconds for people: 0.4 s, 12 s, 3 min 20 s, 1 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _charts(view: ReportView) -> dict[str, dict[str, Markup]]:
    charts: dict[str, dict[str, Markup]] = {}
    rows = [_chart_row(view, row) for row in (*view.table.averages, *view.table.rows)]
    for name, width in WIDTHS.items():
        drawn = charts.setdefault(name, {})
        if rows:
            drawn["scores"] = interval_chart(rows, title="Scores with intervals, in percent", width=width)
        if view.training:
            drawn["loss"] = _loss_chart(view.training, "Training loss of the embedder", width)
            if view.training.dev_few:
                drawn["dev"] = _dev_chart(view.training, width)
        if view.reranker_training:
            drawn["reranker_loss"] = _loss_chart(
                view.reranker_training, "Training loss of the reranker", width
            )
        if view.reranking and view.reranking.curve:
            drawn["reranker"] = cost_chart(
                view.reranking.curve,
                title="Reranker: quality over cost",
                labels=(view.reranking.cost_label, "nDCG@10"),
                width=width,
            )
        if view.tuning:
            drawn["tuning"] = pareto_chart(view.tuning, width=width)
    return charts


def _loss_chart(training: TrainingFacts, title: str, width: int) -> Markup:
    return line_chart(training.points, training.smooth, title=title, labels=("step", "loss"), width=width)


def _dev_chart(training: TrainingFacts, width: int) -> Markup:
    def series(label: str, style: str, points: Sequence[Point], *, is_main: bool) -> Series:
        return Series(label, style, tuple(CurvePoint(x, y, y, y) for x, y in points), is_main)

    return curve_chart(
        [
            series("few-shot", "trained-few", training.dev_few, is_main=True),
            series("zero-shot", "base-zero", training.dev_zero, is_main=False),
        ],
        title="Scores on the dev splits while training, in percent",
        labels=("step", "%"),
        width=width,
    )


def _chart_row(view: ReportView, row: ScoreRow) -> IntervalRow:
    marks = tuple(
        Mark(column.name, column.label, 100 * cell.mean, 100 * cell.low, 100 * cell.high)
        for column in view.table.columns
        if (cell := row.cells.get(column.name))
    )
    detail = "" if row.is_average else row.metric + (", trained on" if row.trained_on else "")
    return IntervalRow(row.label, detail, marks)
