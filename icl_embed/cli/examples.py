"""``icl-embed examples``: choose a task's few-shot examples, and find out what the choice is worth."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from icl_embed.cli.options import DEFAULT_STORE, DtypeOption, StoreOption
from icl_embed.cli.pool import PoolOption, resolve_pool
from icl_embed.config import EvaluateConfig, ExampleStrategy, SelectionConfig
from icl_embed.errors import ConfigError
from icl_embed.store import Store

if TYPE_CHECKING:
    from icl_embed.evaluation.strategy_comparison import Outcome
    from icl_embed.examples import ExampleSet
    from icl_embed.model.embedder import Embedder

app = typer.Typer(help="Choose few-shot examples, and see what they are worth.", no_args_is_help=True)
console = Console()

TaskOption = Annotated[str, typer.Option("--task", "-t", help="name of a data set of the pool")]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="a model folder, or an artefact; default: the newest embedder of the store"
    ),
]
ShotsOption = Annotated[int, typer.Option(min=1, help="examples per query")]
SeedOption = Annotated[int, typer.Option(help="another seed, another split and other draws")]
NearestOption = Annotated[Literal["dense", "mmr", "bm25"], typer.Option(help="how nearest compares queries")]
SetsOption = Annotated[
    int, typer.Option(min=0, help="nearest by vectors: distinct sets at most; 0: one per query")
]
DiverseOption = Annotated[Literal["mmr", "k_center"], typer.Option(help="how diverse spreads out")]


@app.command(epilog="Example: icl-embed examples search --task banking77 --strategy greedy --budget 30")
def search(
    task: TaskOption,
    model: ModelOption = "",
    pool: PoolOption = None,
    store: StoreOption = DEFAULT_STORE,
    strategy: Annotated[Literal["halving", "greedy"], typer.Option(help="how to search")] = "halving",
    shots: ShotsOption = 5,
    budget: Annotated[
        int, typer.Option(min=1, help="passes over the search queries that trials may cost")
    ] = 16,
    dev_queries: Annotated[
        int, typer.Option(min=8, help="training-side queries to search by, and as many to check with")
    ] = 100,
    draws: Annotated[int, typer.Option(min=2, help="random sets that gains are measured against")] = 5,
    max_sets: SetsOption = 16,
    seed: SeedOption = 0,
    dtype: DtypeOption = "auto",
    out: Annotated[Path | None, typer.Option(help="file of the winner; default: TASK.examples.json")] = None,
) -> None:
    """Compare all strategies on development queries and save the best single example set.

    Everything comes from the training side of the pool; the test split is never read. A strategy wins by its
    score on the search queries, and its gain is measured on other queries, which no search has seen.
    """
    from icl_embed.evaluation.strategy_comparison import compare_strategies, describe_winner, winner
    from icl_embed.evaluation.trials import Workbench
    from icl_embed.few_shot.files import write_chosen

    options = SelectionConfig(max_sets=max_sets, search_by=strategy, budget=budget, dev_queries=dev_queries)
    folder, embedder = resolve_pool(pool, store), _load(model, store, dtype)
    bench = Workbench.prepare(
        folder, task, embedder, EvaluateConfig(shots=shots, selection=options), seed=seed
    )
    with console.status("") as status:
        outcomes = compare_strategies(
            bench, draws=draws, progress=lambda what: status.update(f"{task}: {escape(what)}")
        )
    best = winner(outcomes)
    console.print(outcome_table(task, outcomes, best))
    path = out or Path(f"{task}.examples.json")
    write_chosen(path, describe_winner(best, bench, model_fingerprint=embedder.fingerprint, draws=draws))
    _tell_result(best, path)


@app.command(
    epilog="Example: icl-embed examples select --task banking77 --strategy nearest -q 'my card is lost'"
)
def select(
    task: TaskOption,
    strategy: Annotated[
        Literal["fixed", "random", "nearest", "diverse", "balanced"], typer.Option(help="how to choose")
    ] = "fixed",
    query: Annotated[list[str], typer.Option("--query", "-q", help="nearest: a query to choose for")] = [],  # noqa: B006
    model: ModelOption = "",
    pool: PoolOption = None,
    store: StoreOption = DEFAULT_STORE,
    shots: ShotsOption = 5,
    nearest_by: NearestOption = "dense",
    max_sets: SetsOption = 0,
    diverse_by: DiverseOption = "mmr",
    seed: SeedOption = 0,
    dtype: DtypeOption = "auto",
) -> None:
    """Print the examples that a strategy chooses, without measuring anything."""
    from icl_embed.few_shot.candidates import Candidates
    from icl_embed.few_shot.strategies import choose_setting
    from icl_embed.pool.examples import read_training_side

    if strategy == "nearest" and not query:
        raise ConfigError("nearest chooses per query; give at least one with --query")
    folder = resolve_pool(pool, store)
    instruction = read_training_side(folder, task).instruction
    candidates = Candidates.read(folder, task, instruction=instruction, encoder=_load(model, store, dtype))
    options = SelectionConfig(nearest_by=nearest_by, max_sets=max_sets, diverse_by=diverse_by)
    chosen: ExampleStrategy = strategy
    setting = choose_setting(chosen, candidates, EvaluateConfig(shots=shots, selection=options), seed=seed)
    asked = query if strategy == "nearest" else [""]
    for examples, rows in setting.selection(asked).groups():
        title = " · ".join(asked[row] for row in rows) or f"{task}: {strategy}"
        console.print(_example_table(title, examples))


def outcome_table(task: str, outcomes: list[Outcome], best: Outcome) -> Table:
    """One row per strategy, the winner in bold; fits a terminal of 80 columns."""
    table = Table(
        title=f"{task}: {best.metric} in % on development queries, gain over random draws",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("strategy", no_wrap=True)
    for name in ("sets", "search", "check", "gain", "interval", "seconds", "tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in outcomes:
        gain = ["", ""]
        if one.strategy != "random":
            low, high = 100 * one.gain.low, 100 * one.gain.high
            gain = [f"{100 * one.gain.mean:+.1f}", f"{low:+.1f} … {high:+.1f}"]
        table.add_row(
            one.strategy,
            str(one.num_sets),
            f"{100 * one.search_score:.1f}",
            f"{100 * one.score:.1f}",
            *gain,
            f"{one.cost.seconds:.1f}",
            f"{one.cost.tokens:,}",
            style="bold" if one is best else "",
        )
    return table


def _tell_result(best: Outcome, path: Path) -> None:
    instruction = shlex.quote(best.setting.instruction)
    console.print(
        f"examples of {best.strategy} saved: {path}; compile them with\n"
        f"icl-embed compile-task -m MODEL -i {instruction} -e {path} -o TASK.safetensors",
        soft_wrap=True,
        markup=False,
    )
    if best.gain.low <= 0:
        console.print(
            "Their gain over random examples cannot be told from zero on these queries; "
            "more development queries (--dev-queries) or a larger budget may show one."
        )


def _example_table(title: str, examples: ExampleSet) -> Table:
    table = Table("query", "response", title=escape(title), title_justify="left", show_lines=True)
    for example in examples:
        table.add_row(escape(example.query), escape(example.response))
    return table


def _load(model: str, store: Path, dtype: str) -> Embedder:
    from icl_embed.model.embedder import Embedder
    from icl_embed.store.models import find_model

    return Embedder.load(find_model(Store(store), model).path, dtype=dtype)
