"""``icl-embed rerank eval`` and ``icl-embed rerank tune``: measure a reranker, and choose how to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from icl_embed.cli import rerank_options as options
from icl_embed.cli.options import spread
from icl_embed.cli.rerank import console, refuse_other_endings
from icl_embed.progress import changing_bar

if TYPE_CHECKING:
    from icl_embed.evaluation.measurement import Bootstrap, Interval
    from icl_embed.evaluation.reranker.candidates import Candidates
    from icl_embed.evaluation.reranker.comparison import Comparison
    from icl_embed.evaluation.reranker.measure import Systems
    from icl_embed.evaluation.reranker.tuning import ChoiceRecord
    from icl_embed.rerank.folder import RerankerSettings
    from icl_embed.rerank.reranker import Reranker

COLUMNS = {
    "bm25": "BM25",
    "first_stage": "first stage",
    "full_depth": "full depth",
    "lightweight": "lightweight",
}


def register(app: typer.Typer) -> None:
    """Add the commands to ``icl-embed rerank``."""
    app.command(
        "eval",
        epilog="Examples: icl-embed rerank eval --output results | "
        "icl-embed rerank eval -m distilled --against plain | "
        "icl-embed rerank eval -m my-reranker --candidates queries.jsonl --choice choice.json",
    )(evaluate)
    app.command(
        "tune",
        epilog="Examples: icl-embed rerank tune --max-loss 0.5 | "
        "icl-embed rerank tune -m my-reranker --candidates dev.jsonl --max-loss 1 --mean",
    )(tune)


@spread
def evaluate(
    run: options.ModelOptions,
    measured: options.CandidateOptions,
    asked: options.WayOptions,
    against: Annotated[str, typer.Option(help="another reranker: compare them exit by exit instead")] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="folder for scores.json, curve.json and the values")
    ] = None,
) -> None:
    """Measure every exit and width on test queries, beside first stage and BM25, with paired intervals.

    Without --candidates these are the embedder's test scores in the store. The lightweight way is what
    the options say, else what tuning chose for this reranker, else its middle exit.
    """
    from icl_embed.evaluation.measurement import Bootstrap
    from icl_embed.evaluation.reranker.measure import measure_systems
    from icl_embed.evaluation.reranker.stored import find_bm25

    how = Bootstrap(seed=measured.seed)
    stored = measured.stored(run.kept, "test")
    inputs = measured.read(stored)
    if against:
        _compare(run.load(), replace(run, model=against).load(), inputs, how, run.batch_tokens)
        return
    with run.opened() as reranker, changing_bar() as tell:
        systems = measure_systems(
            reranker,
            inputs,
            asked.lightweight(reranker.settings, run.folder, run.kept),
            ratios=options.parse_ratios(measured.ratios),
            batch_tokens=run.batch_tokens,
            bm25=find_bm25(run.kept, stored),
            progress=tell,
        )
    _show(systems, how, output)


@spread
def tune(
    run: options.ModelOptions,
    measured: options.CandidateOptions,
    max_loss: Annotated[
        float, typer.Option("--max-loss", min=0.0, max=100.0, help="nDCG@10 points that may be lost")
    ] = 2.0,
    safe: Annotated[
        bool, typer.Option("--safe/--mean", help="hold the interval's upper end to it, or only the mean")
    ] = True,
    output: Annotated[Path, typer.Option("--output", "-o", help="a .json file")] = Path("choice.json"),
    cascades: Annotated[
        bool, typer.Option("--cascades/--no-cascades", help="also carry only the promising passages on")
    ] = True,
) -> None:
    """Choose the cheapest depth, width and cascade that loses little against full depth.

    On development queries only: without --candidates the embedder's dev scores in the store.
    """
    from icl_embed.evaluation.measurement import Bootstrap
    from icl_embed.evaluation.reranker.tuning import Limit, tune_on, write_choice

    refuse_other_endings(output, ".json")
    inputs = measured.read(measured.stored(run.kept, "dev"))
    with run.opened() as reranker, changing_bar() as tell:
        record = tune_on(
            reranker,
            inputs,
            limit=Limit(max_loss / 100, safe, Bootstrap(seed=measured.seed)),
            ratios=options.parse_ratios(measured.ratios),
            cascades=cascades,
            batch_tokens=run.batch_tokens,
            progress=tell,
        )
    write_choice(output, record)
    console.print(_tried_table(record, reranker.settings))
    console.print(_chosen(record, reranker.settings, output), soft_wrap=True)


def _compare(
    first: Reranker, second: Reranker, inputs: Sequence[Candidates], how: Bootstrap, batch_tokens: int
) -> None:
    from icl_embed.evaluation.reranker.comparison import compare_rerankers

    with changing_bar() as tell:
        found = compare_rerankers(first, second, inputs, how, batch_tokens=batch_tokens, progress=tell)
    console.print(_comparison_table(found))


def _show(systems: Systems, how: Bootstrap, output: Path | None) -> None:
    from icl_embed.evaluation.reranker.evaluate import write_results
    from icl_embed.evaluation.reranker.measure import curve_of, summarise

    scores = summarise(systems, how)
    if output is not None:
        write_results(output, systems, scores, how)
    console.print(_systems_table(scores))
    console.print(_ways_table(curve_of(systems, how)))
    console.print(_saving(scores), soft_wrap=True)


def _systems_table(scores: Mapping[str, Any]) -> Table:
    shown = [name for name in COLUMNS if any(name in row for row in scores["datasets"])]
    table = Table("nDCG@10 in %", *(COLUMNS[name] for name in shown), box=None, pad_edge=False)
    for row in scores["datasets"]:
        name = row["dataset"] + ("*" if row["trained_on"] else "")
        table.add_row(escape(name), *(_percent(row.get(system)) for system in shown))
    average = scores["averages"]["ndcg_at_10"]
    table.add_row("average", *(_percent(average.get(system)) for system in shown), style="bold")
    table.caption = "* trained on"
    return table


def _ways_table(curve: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("way", "nDCG@10", "lost", "GFLOPs", "ms per query", box=None, pad_edge=False)
    for row in sorted(curve, key=lambda row: row["gflops_per_query"]):
        table.add_row(
            escape(row["name"]),
            f"{100 * row['ndcg']:.1f}",
            _lost(row["loss"]),
            f"{row['gflops_per_query']:.2f}",
            f"{1000 * row['seconds_per_query']:.0f}",
            style="bold" if row["is_chosen"] else None,
        )
    return table


def _saving(scores: Mapping[str, Any]) -> str:
    relative = scores["relative_loss_interval"]
    return (
        f"{scores['chosen']['name']}: {100 * scores['flops_saved_fraction']:.1f} % of full depth's FLOPs "
        f"saved ({100 * scores['flops_saved_against_recomputing_queries']:.1f} % where full depth recomputes "
        f"each query), relative loss {100 * relative['mean']:.1f} % "
        f"({100 * relative['low']:.1f} to {100 * relative['high']:.1f})"
    )


def _comparison_table(found: Comparison) -> Table:
    table = Table("nDCG@10 in %", "first", "second", "difference", box=None, pad_edge=False)
    means = [found.mean, *([found.early_mean] if found.early_mean else [])]
    for row in (*found.exits, *means):
        cells = (row.first.in_percent, row.second.in_percent, row.difference.in_points)
        table.add_row(row.name, *cells, style="bold" if row in means else None)
    return table


def _tried_table(record: ChoiceRecord, settings: RerankerSettings) -> Table:
    from icl_embed.evaluation.reranker.tuning import shown_tried
    from icl_embed.rerank.ways import name_of, way_of_record

    table = Table("way", "nDCG@10", "lost", "GFLOPs", "saved", "", box=None, pad_edge=False)
    for row in shown_tried(record):
        table.add_row(
            name_of(way_of_record(row.way, settings)),
            f"{100 * row.ndcg.mean:.1f}",
            _lost(row.loss.model_dump()),
            f"{row.gflops_per_query:.2f}",
            f"{100 * row.flops_saved_fraction:.0f} %",
            "chosen" if row.way == record.chosen else "" if row.is_allowed else "loses too much",
            style="bold" if row.way == record.chosen else None,
        )
    return table


def _chosen(record: ChoiceRecord, settings: RerankerSettings, output: Path) -> str:
    from icl_embed.rerank.ways import name_of, way_of_record

    queries, result = sum(record.datasets.values()), record.chosen_result
    bound = "the upper end of the loss's interval" if record.bound == "interval" else "the mean loss"
    return (
        f"{name_of(way_of_record(record.chosen, settings))}: {100 * result.flops_saved_fraction:.1f} % of "
        f"full depth's FLOPs saved; {bound} is within {100 * record.max_loss:g} points on {queries} "
        f"development queries, {len(record.tried)} ways tried → {escape(str(output))}"
    )


def _percent(interval: Mapping[str, float] | Interval | None) -> str:
    from icl_embed.evaluation.measurement import Interval

    if interval is None:
        return "-"
    return (interval if isinstance(interval, Interval) else Interval(**interval)).in_percent


def _lost(loss: Mapping[str, float]) -> str:
    from icl_embed.evaluation.measurement import points

    return points(loss["mean"], loss["low"], loss["high"])
