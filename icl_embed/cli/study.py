"""``icl-embed study``: how many examples, how good, at what cost, and what the model had seen before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from icl_embed.cli import evaluation_options as options
from icl_embed.cli.options import parse_numbers, spread
from icl_embed.experiments.record import read_study, study_table
from icl_embed.store import Artefact, Store

if TYPE_CHECKING:
    from icl_embed.evaluation.grid import Outcome, RunRequest
    from icl_embed.evaluation.models import OpenedModel

app = typer.Typer(name="study", help=__doc__, no_args_is_help=True)
console = Console()


@dataclass(frozen=True)
class _Opened:
    """What every study starts from."""

    request: RunRequest
    model: OpenedModel
    store: Store


@app.callback()
def study() -> None:
    """Study what few-shot gives and costs; every result is an artefact of the store."""


@app.command(
    epilog="Example: icl-embed study shots --tasks SciFact,STSBenchmark --mirror mirror --seeds 0,1,2"
)
@spread
def shots(
    measured: options.MeasuredOptions,
    asked: options.AskedOptions,
    shots: Annotated[str, typer.Option(help="numbers of examples, by comma")] = "0,1,2,3,4,5,6,7,8,9,10",
    seeds: options.SeedsOption = "0",
) -> None:
    """The score by the number of examples, over tasks and draws, with intervals."""
    from icl_embed.experiments.curves import study_shots

    opened = _open(measured, asked)
    with _told() as tell:
        made, outcome = study_shots(
            opened.request,
            opened.model,
            opened.store,
            shots=parse_numbers("--shots", shots),
            seeds=parse_numbers("--seeds", seeds),
            progress=tell,
        )
    _show(made, outcome)


@app.command("examples", epilog="Example: icl-embed study examples --tasks SciFact,Banking77Classification")
@spread
def examples_(
    measured: options.MeasuredOptions,
    asked: options.AskedOptions,
    shots: Annotated[int, typer.Option(min=1, help="examples before each query")] = 5,
    qualities: Annotated[str, typer.Option(help="by comma; default: all")] = "",
    seeds: options.SeedsOption = "0",
) -> None:
    """The score by the quality of the examples: wrong, shuffled, off-task, repeated, very long."""
    from icl_embed.experiments.corruptions import CORRUPTIONS
    from icl_embed.experiments.curves import study_examples

    opened = _open(measured, asked)
    with _told() as tell:
        made, outcome = study_examples(
            opened.request,
            opened.model,
            opened.store,
            shots=shots,
            qualities=[one.strip() for one in qualities.split(",") if one.strip()] or list(CORRUPTIONS),
            seeds=parse_numbers("--seeds", seeds),
            progress=tell,
        )
    _show(made, outcome)


@app.command(epilog="Example: icl-embed study overhead --tasks data/cwe-examples --shots 0,1,5,10")
@spread
def overhead(
    measured: options.MeasuredOptions,
    asked: options.AskedOptions,
    shots: Annotated[str, typer.Option(help="numbers of examples, by comma")] = "0,1,5,10",
    batch: Annotated[int, typer.Option(min=2, help="queries encoded at once")] = 64,
    singles: Annotated[int, typer.Option(min=1, help="queries encoded one by one, per round")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="how often everything takes its turn")] = 3,
    seed: Annotated[int, typer.Option(help="draw of examples")] = 0,
) -> None:
    """What examples cost: tokens, latency, throughput, memory, operations; prefix shared and in full.

    The first task gives the queries and the examples.
    """
    from icl_embed.experiments.measuring import study_overhead
    from icl_embed.experiments.overhead import OverheadPlan

    opened = _open(measured, asked)
    counts = tuple(sorted(set(parse_numbers("--shots", shots))))
    with _told() as tell:
        made = study_overhead(
            opened.request,
            opened.model,
            opened.store,
            plan=OverheadPlan(counts, batch, singles, rounds),
            seed=seed,
            progress=lambda what: tell(what, 0, 0),
        )
    _show(made)


@app.command(epilog="Example: icl-embed study overlap --tasks SciFact,STSBenchmark --mirror mirror")
@spread
def overlap(
    measured: options.MeasuredOptions,
    train: Annotated[
        list[Path], typer.Option("--train", help="Parquet file or pool; default: the model's lineage")
    ] = [],  # noqa: B006 - typer copies it
    ngram: Annotated[int, typer.Option(min=1, help="words in a run")] = 13,
) -> None:
    """How much of what is evaluated was in the training rows, and whether the domain was trained on."""
    from icl_embed.experiments.measuring import study_overlap

    opened = _open(measured, options.AskedOptions())
    _show(study_overlap(opened.request, opened.model, opened.store, train=train, ngram=ngram))


def _open(measured: options.MeasuredOptions, asked: options.AskedOptions) -> _Opened:
    from icl_embed.evaluation.models import open_model

    request = options.request_of(measured, asked)
    prompt, kept = request.config.prompt, request.places.store
    model = open_model(measured.model, kept, prompt=prompt, name=measured.name, dtype=asked.dtype)
    return _Opened(request, model, kept)


@contextmanager
def _told() -> Iterator[_Tell]:
    with Console(stderr=True).status("") as status:
        yield _Tell(status)


@dataclass(frozen=True)
class _Tell:
    status: Status

    def __call__(self, what: str, done: int, total: int) -> None:
        self.status.update(escape(f"{what} ({done}/{total})" if total else what))


def _show(made: Artefact, outcome: Outcome | None = None) -> None:
    found = read_study(made.path)
    console.print(study_table(found))
    for note in found.facts.get("notes", ()):
        console.print(escape(note), style="yellow", soft_wrap=True)
    console.print(f"{made.reference}; see it with icl-embed eval report", soft_wrap=True)
    if outcome and (outcome.failed or outcome.missing):
        raise typer.Exit(1)
