"""``icl-embed``: run flows, see what would run, look at every artefact."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from icl_embed.cli.benchmark_report import register as register_report
from icl_embed.cli.data import app as data_app
from icl_embed.cli.evaluation import app as eval_app
from icl_embed.cli.evaluation import register as register_benchmark
from icl_embed.cli.examples import app as examples_app
from icl_embed.cli.export import app as export_app
from icl_embed.cli.join import register as register_join
from icl_embed.cli.mine import register as register_mining
from icl_embed.cli.model import app as model_app
from icl_embed.cli.pool import app as pool_app
from icl_embed.cli.rerank import app as rerank_app
from icl_embed.cli.rerank_measuring import register as register_rerank_measuring
from icl_embed.cli.results import register as register_results
from icl_embed.cli.store import app as store_app
from icl_embed.cli.study import app as study_app
from icl_embed.errors import ConfigError, IclEmbedError, SourceError

app = typer.Typer(
    help="Few-shot text embedders: data, training and evaluation in one pipeline.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(model_app)
register_mining(app)
register_join(app)
app.add_typer(data_app, name="data")
app.add_typer(pool_app, name="pool")
register_benchmark(eval_app)
register_results(eval_app)
register_report(eval_app)
app.add_typer(eval_app, name="eval")
app.add_typer(study_app, name="study")
app.add_typer(examples_app, name="examples")
register_rerank_measuring(rerank_app)
app.add_typer(rerank_app, name="rerank")
app.add_typer(store_app, name="store")
app.add_typer(export_app)  # icl-embed export, icl-embed export-data
console = Console()


def show_version(asked: bool) -> None:
    """Print the version, with the commit of a checkout, and end."""
    if asked:
        from icl_embed.store.manifest import git_commit

        version = importlib.metadata.version("icl-embed")
        typer.echo(" ".join(part for part in ("icl-embed", version, git_commit()) if part))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="show the version and end")
    ] = False,
) -> None:
    """Few-shot text embedders: data, training and evaluation in one pipeline."""


PresetOption = Annotated[str, typer.Option("--preset", "-p", help="a shipped preset's name, or a TOML file")]
SetOption = Annotated[list[str], typer.Option("--set", "-s", help="override, e.g. train.temperature=0.05")]


@app.command(
    "run",
    epilog="Examples: icl-embed run full-pipeline --preset laptop | "
    "icl-embed run train-embedder --here --set train.optimizer.learning_rate=2e-4 | "
    "icl-embed run ablations --here --vary 'model.pooling=last|mean'",
)
def run_flow(
    flow: Annotated[
        str, typer.Argument(help="full-pipeline, build-pool, train-embedder, …")
    ] = "full-pipeline",
    preset: PresetOption = "demo",
    overrides: SetOption = [],  # noqa: B006 - typer copies it
    here: Annotated[bool, typer.Option("--here", help="in this process, without a server")] = False,
    vary: Annotated[list[str], typer.Option(help="ablations: alternatives, a.b=first|second")] = [],  # noqa: B006
    accept: Annotated[bool, typer.Option("--accept", help="re-evaluate: accept fallen scores")] = False,
    model: Annotated[
        list[str], typer.Option(help="benchmark: folder, artefact, bm25, hub:org/name@commit")
    ] = [],  # noqa: B006
    reranker: Annotated[str, typer.Option(help="benchmark: folder or artefact, after each search")] = "",
) -> None:
    """Run a flow: on the Prefect server and its workers, or in this process with --here."""
    from flows import starting
    from icl_embed.pipeline.ablation import open_variants
    from icl_embed.pipeline.run import open_run

    name = flow.partition("/")[0]  # Prefect's way to name a deployment is understood, too
    parameters: dict[str, object] = {"preset": preset, "overrides": list(overrides)}
    own: dict[str, dict[str, object]] = {
        "ablations": {"vary": list(vary)},
        "re-evaluate": {"accept": accept},
        "benchmark": {"models": list(model), "reranker": reranker or None},
    }
    for owner, given in own.items():
        foreign = [option.removesuffix("s") for option, value in given.items() if value and owner != name]
        if foreign:
            raise ConfigError(
                f"--{foreign[0]} belongs to the flow {owner}, not to {name}; settings are changed by --set"
            )
    parameters |= own.get(name, {})
    # a mistake in the config is told now, in one line, not by a failed run
    if name == "ablations":
        open_variants(preset, overrides, vary)
    else:
        open_run(preset, overrides)
    if here:
        result = starting.run_here(flow, parameters)
        console.print(f"\n[bold]{escape(name)} is done[/bold]\n{escape(str(result))}", soft_wrap=True)
    else:
        starting.run_deployed(flow, parameters, console)


@pool_app.command("build", epilog="Example: icl-embed pool build --preset demo --set pool.min_characters=5")
def build_pool(preset: PresetOption = "demo", overrides: SetOption = []) -> None:  # noqa: B006
    """Fetch a preset's data sets, build the pool and mine hard negatives, in this process."""
    run_flow("build-pool", preset, overrides, here=True)


@app.command("plan", epilog="Example: icl-embed plan --preset demo --set train.optimizer.learning_rate=2e-4")
def show_plan(
    preset: PresetOption = "demo",
    overrides: SetOption = [],  # noqa: B006
    gpu: Annotated[
        str, typer.Option(help="hours are estimated for: A100-80, H100, H200, L4, RTX4090")
    ] = "H100",
    gpus: Annotated[int, typer.Option(min=1, help="how many of them")] = 8,
    mfu: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="the part of their peak that is reached")
    ] = 0.4,
) -> None:
    """Dry run: per stage CACHED or RUN, which part of its key changed, and what it would take."""
    from icl_embed.cli.estimate import show_estimate
    from icl_embed.pipeline.benchmarks import planned_keys
    from icl_embed.pipeline.estimate import estimate, without_index
    from icl_embed.pipeline.known_sizes import known_sets
    from icl_embed.pipeline.plan import plan
    from icl_embed.pipeline.run import open_run
    from icl_embed.train.cost import Machine

    machine = Machine(gpu, gpus, mfu)
    machine.sheet  # noqa: B018 - an unknown GPU is told before any work
    try:
        run = open_run(preset, overrides)
    except SourceError as error:  # what a collection holds is not known here, and so no key
        console.print(f"[yellow]no stage can be named:[/yellow] {escape(str(error))}", soft_wrap=True)
        show_estimate(console, without_index(preset, overrides, machine), machine)
        return
    stages = plan(run.store, planned_keys(run))
    for stage in stages:
        state = "[green]CACHED[/green]" if stage.is_cached else "[yellow]RUN   [/yellow]"
        name = f"{stage.key.stage:<19} {escape(stage.key.label):<28}"
        console.print(
            f"{state} {name} [dim]{stage.key.fingerprint}[/dim] {escape(stage.reason)}", soft_wrap=True
        )
    console.print(f"{sum(not stage.is_cached for stage in stages)} of {len(stages)} stages would run")
    missing = {stage.key.stage for stage in stages if not stage.is_cached}
    sets, unknown = known_sets(run)
    show_estimate(console, estimate(run.config, sets, missing, machine, unknown=unknown), machine)


@app.command("ui", epilog="Example: icl-embed ui --port 4201")
def serve_ui(port: Annotated[int, typer.Option(help="port of the Prefect server")] = 4200) -> None:
    """Start a Prefect server and a worker on this machine, deploy every flow, and stay until Ctrl-C."""
    from flows import serving

    serving.serve(port, console)


# What a library that is not installed belongs to: the bare package holds what it takes to use a model.
EXTRAS = {
    "train": ("deepspeed", "peft"),
    "eval": ("mteb", "pytrec_eval"),
    "pipeline": (
        *("bm25s", "datasets", "defusedxml", "duckdb", "gguf"),
        *("orjson", "prefect", "pyarrow", "pypi_simple", "requests"),
    ),
}


def extra_of(module: str) -> str:
    """The extra that brings a library; empty for one that no extra brings."""
    top = module.partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if top in modules), "")


def main() -> None:
    """Entry point: typed errors become one readable message and exit code 2."""
    # Libraries that cannot know better: no telemetry, no tokenizer threads under our own processes.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    sys.path.insert(0, str(Path.cwd()))
    try:
        app()
    except ModuleNotFoundError as error:
        extra = extra_of(error.name or "")
        if not extra:
            raise
        told = f"this command needs {error.name}, which is not installed: pip install 'icl-embed[{extra}]'"
        Console(stderr=True).print(escape(told), soft_wrap=True)
        sys.exit(2)
    except IclEmbedError as error:
        Console(stderr=True).print(f"[red]{type(error).__name__}[/red] {escape(str(error))}", soft_wrap=True)
        sys.exit(2)
