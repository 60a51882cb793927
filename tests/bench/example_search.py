"""Does the choice of examples matter? Every strategy against random examples, on development and test queries.

``python -m tests.bench.example_search --store STORE`` takes the newest embedder and pool of a store and the tasks
that it was not trained on, and writes ``tests/bench/results/example_search.json``. Per task all strategies choose
from the same candidates (the pool's training side without the development queries). A search sees the *search*
queries only; *dev* gains are measured on other training-side queries, *test* gains on the held-back test split,
both over the mean of several random draws, with intervals from a bootstrap that pairs the queries.

``example_search_larger.json`` came from ``--tasks cwe-examples --strategies halving --dev-queries 100 --budget 20``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from icl_embed.config import EvaluateConfig, ExampleStrategy, SelectionConfig
from icl_embed.errors import PoolError
from icl_embed.evaluation.leaks import evaluated_texts, refuse_leaks
from icl_embed.evaluation.measurement import Bootstrap, Difference, paired_difference
from icl_embed.evaluation.score import count_query_tokens
from icl_embed.evaluation.strategy_comparison import gain_over
from icl_embed.evaluation.tasks.rows import EvaluationInput, TaskData, query_texts, read_task_data
from icl_embed.evaluation.trials import Workbench, count_queries
from icl_embed.few_shot.strategies import NearestExamples, choose_setting
from icl_embed.model.cached_encoding import Setting
from icl_embed.model.embedder import Embedder
from icl_embed.pool.examples import read_training_side
from icl_embed.store import Store
from icl_embed.store.manifest import library_versions
from tests.bench.machine import describe_machine

RESULT = Path(__file__).parent / "results" / "example_search.json"
TASKS = "cwe-examples networkx-code cwe-siblings review-sentiment sms-spam cwe-categories".split()
STRATEGIES = "none diverse balanced nearest halving greedy".split()  # and nearest-bm25: a prefix per query
DRAWS = 5
HOW = Bootstrap()
Replicates = dict[str, dict[str, np.ndarray]]  # strategy -> part -> gains on resampled queries [R]
TaskResult = tuple[dict[str, Any], Replicates]


def newest(store: Store, stage: str) -> Path:
    """The artefact of a stage that was published last."""
    return [artefact.path for artefact in store.artefacts() if artefact.stage == stage][-1]


def dataset_input(store: Store, pool: Path, name: str) -> EvaluationInput:
    """The data set of a name, as evaluation takes it."""
    side = read_training_side(pool, name)
    found = [one for one in store.artefacts() if one.stage == "dataset" and one.manifest.label == name]
    return EvaluationInput(name, side.kind, side.instruction, found[-1].path, found[-1].fingerprint)


def ways_to_choose(bench: Workbench, *, strategies: Sequence[str]) -> dict[str, Callable[[], Setting]]:
    """The strategies that are compared; none shows no examples."""

    def searched(method: str) -> Setting:
        options = bench.config.selection.model_copy(update={"search_by": method})
        config = bench.config.model_copy(update={"selection": options})
        return bench.setting(dataclasses.replace(bench, config=config).search().positions)

    def plain(name: ExampleStrategy) -> Setting:
        return choose_setting(name, bench.candidates, bench.config, seed=0)

    ways: dict[str, Callable[[], Setting]] = {
        "none": lambda: Setting("zero-shot", bench.task.instruction),
        "diverse": lambda: plain("diverse"),
        "nearest": lambda: plain("nearest"),
        "halving": lambda: searched("halving"),
        "greedy": lambda: searched("greedy"),
    }
    if bench.candidates.has_labels:
        ways["balanced"] = lambda: plain("balanced")
    words = NearestExamples(bench.candidates, bench.config.shots, by="bm25")
    ways["nearest-bm25"] = lambda: Setting("few-shot", bench.task.instruction, choose=words)
    return {name: ways[name] for name in strategies if name in ways}


def run_task(
    bench: Workbench, dataset: EvaluationInput, test: TaskData, *, strategies: Sequence[str]
) -> TaskResult:
    """The record of one task, and per strategy and part the replicates of its score less random's mean."""
    started = time.process_time()
    parts = {"dev": bench.split.check, "test": test}
    draws = [choose_setting("random", bench.candidates, bench.config, seed=seed) for seed in range(DRAWS)]
    random = {part: [bench.measure(draw, data) for draw in draws] for part, data in parts.items()}
    record: dict[str, Any] = {
        "kind": dataset.kind,
        "metric": bench.metric,
        "candidates": len(bench.candidates.rows),
        "search_queries": count_queries(bench.split.search),
        **{f"{part}_queries": count_queries(data) for part, data in parts.items()},
        "random": {
            **{part: [round(one.point, 4) for one in measured] for part, measured in random.items()},
            "prefix_tokens": _prefix_tokens(bench, draws[0], test),
        },
        "strategies": {},
    }
    replicates: Replicates = {}
    for name, choose in ways_to_choose(bench, strategies=strategies).items():
        before = bench.meter.cost
        setting = choose()
        cost = bench.meter.cost - before
        sets = setting.selection(query_texts(test)).sets
        refuse_leaks(dataset, [one for examples in sets for one in examples], evaluated_texts(test))
        found: dict[str, Any] = {
            "sets_on_test": len(sets),
            "shots": max(map(len, sets)),
            "prefix_tokens": _prefix_tokens(bench, setting, test),
            "choice_seconds": round(cost.seconds, 1),
            "choice_tokens": cost.tokens,
        }
        replicates[name] = {}
        for part, data in parts.items():
            measured = bench.measure(setting, data)
            gain = gain_over(measured, random[part], HOW)
            found[part] = {"score": round(measured.point, 4), **_rounded(gain)}
            baseline = np.mean([draw.replicates(HOW) for draw in random[part]], axis=0)
            replicates[name][part] = measured.replicates(HOW) - baseline
        record["strategies"][name] = found
    record["cpu_seconds"] = round(time.process_time() - started)
    record["tokens"] = bench.meter.tokens
    return record, replicates


def load_or_run(parts: Path, name: str, run: Callable[[], TaskResult]) -> TaskResult:
    """A task's result from the folder of parts, or made now and kept there: a stopped run goes on."""
    record_path, replicates_path = parts / f"{name}.json", parts / f"{name}.npz"
    if not record_path.exists():
        record, replicates = run()
        parts.mkdir(parents=True, exist_ok=True)
        flat = {
            f"{strategy}/{part}": drawn for strategy, of in replicates.items() for part, drawn in of.items()
        }
        np.savez(replicates_path, **flat)
        record_path.write_text(json.dumps(record), encoding="utf-8")
    replicates = {}
    with np.load(replicates_path, allow_pickle=False) as flat:
        for key in flat:
            strategy, _, part = key.partition("/")
            replicates.setdefault(strategy, {})[part] = flat[key]
    return json.loads(record_path.read_text(encoding="utf-8")), replicates


def average_gains(tasks: dict[str, dict[str, Any]], replicates: dict[str, Replicates]) -> dict[str, Any]:
    """Mean gain over the tasks that have a strategy; intervals over queries, tasks taken as given."""
    averages: dict[str, Any] = {}
    for strategy in sorted({strategy for task in replicates.values() for strategy in task}):
        names = [name for name in replicates if strategy in replicates[name]]
        averages[strategy] = {"tasks": len(names)}
        for part in ("dev", "test"):
            point = float(np.mean([tasks[name]["strategies"][strategy][part]["gain"] for name in names]))
            drawn = np.mean([replicates[name][strategy][part] for name in names], axis=0)
            found = paired_difference((point, 0.0), (drawn, np.zeros_like(drawn)), HOW.confidence)
            averages[strategy][part] = _rounded(found)
    return averages


def _prefix_tokens(bench: Workbench, setting: Any, test: TaskData) -> float:
    return count_query_tokens(bench.meter.prompts, query_texts(test), setting).prefix


def _rounded(gain: Difference) -> dict[str, float]:
    found = {"gain": gain.mean, "low": gain.low, "high": gain.high, "p_value": gain.p_value}
    return {name: round(value, 4) for name, value in found.items()}


def main() -> None:
    """Run all tasks and write the result file after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("store"))
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--parts", type=Path, help="folder of finished tasks; a stopped run goes on from it")
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--dev-queries", type=int, default=60)
    parser.add_argument("--budget", type=int, default=6, help="passes over the search queries")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    config = EvaluateConfig(
        shots=5,
        cluster_sets=10,
        selection=SelectionConfig(dev_queries=options.dev_queries, budget=options.budget, max_sets=8),
    )
    parts = options.parts or Path(tempfile.mkdtemp())
    machine = describe_machine(torch.get_num_threads())
    store = Store(options.store)
    pool = newest(store, "pool")
    embedder = Embedder.load(newest(store, "embedder"), device="cpu", dtype=options.dtype)
    tasks: dict[str, Any] = {}
    replicates: dict[str, Replicates] = {}
    absent: dict[str, str] = {}
    for name in options.tasks:

        def run(name: str = name) -> TaskResult:
            dataset = dataset_input(store, pool, name)
            test = read_task_data(dataset)
            bench = Workbench.prepare(
                pool, name, embedder, config, seed=0, exclude_texts=sorted(evaluated_texts(test))
            )
            return run_task(bench, dataset, test, strategies=options.strategies)

        try:
            tasks[name], replicates[name] = load_or_run(parts, name, run)
        except PoolError as error:
            absent[name] = str(error)
        result = {
            **machine,
            "dtype": options.dtype,
            "libraries": library_versions(),
            "model": embedder.fingerprint,
            "pool": pool.name,
            "config": config.model_dump(mode="json", include={"shots", "selection", "confidence"}),
            "random_draws": DRAWS,
            "average": average_gains(tasks, replicates) if tasks else {},
            "tasks": tasks,
            "absent": absent,
        }
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        sys.stdout.write(f"{name}: {json.dumps(tasks.get(name, absent.get(name)), indent=1)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
