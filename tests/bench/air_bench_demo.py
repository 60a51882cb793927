"""AIR-Bench from end to end on sets of one's own: folder, scores zero-shot and few-shot, reranking, archive.

``python -m tests.bench.air_bench_demo --source DIR --model FOLDER --out DIR`` takes retrieval sets in the folder
format (``corpus.jsonl.gz``, ``queries.jsonl.gz``, ``qrels/<split>.tsv.gz``) and writes them as AIR-Bench
publishes its own: a dev split with judgements, a test split without. The test judgements stay in a second
folder, as AIR-Bench's keepers have them, so that the submitted rankings can be scored here. Examples of the test
split come from dev. With the wheel of ``air-benchmark`` on PYTHONPATH its evaluator scores the dev results and
its packing script judges the folder. Figures: ``tests/bench/results/air_bench_demo.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from icl_embed.evaluation.air_bench.names import TaskName
from icl_embed.evaluation.air_bench.submission import (
    NO_RERANKER,
    SearchResults,
    pack_submission,
    retriever_name,
    save_results,
)
from icl_embed.evaluation.air_bench.task import INSTRUCTION, AirBenchTask, open_air_bench_task
from icl_embed.evaluation.measurement import Bootstrap, Measurement, compare
from icl_embed.evaluation.reranking import PairScorer, rerank
from icl_embed.evaluation.tasks.task import EvaluatedModel, TaskRun, Unjudged
from icl_embed.model.cached_encoding import CachingEncoder, Setting
from icl_embed.model.embedder import Embedder
from icl_embed.pool.examples import in_drawn_order
from icl_embed.store.files import sha256_of
from tests.bench.air_bench_sets import SETS, write_folders
from tests.bench.machine import describe_machine

RESULT = Path(__file__).parent / "results" / "air_bench_demo.json"
HOW = Bootstrap()
RERANKER = "icl-rerank"


class Demo:
    """One model on one task, in every setting; its results saved as AIR-Bench keeps them."""

    def __init__(self, out: Path, name: TaskName, model: EvaluatedModel, encoder: CachingEncoder) -> None:
        self.dev, self.test = (
            open_air_bench_task(name.full, folder=out / "AIR-Bench", split=split) for split in ("dev", "test")
        )
        self.kept = open_air_bench_task(name.full, folder=out / "private", split="test")
        self.results, self.model, self.encoder = out / "search_results", model, encoder

    def settings(self, shots: int, seeds: int) -> list[Setting]:
        """Zero-shot, and several draws from the dev split."""
        pairs = self.test.training_examples()
        draws = [in_drawn_order(pairs, str(self.test.name), seed)[:shots] for seed in range(seeds)]
        return [
            Setting("zero-shot", INSTRUCTION),
            *(
                Setting(f"{shots}-shot seed {seed}", INSTRUCTION, tuple(one.example for one in drawn))
                for seed, drawn in enumerate(draws)
            ),
        ]

    def save(self, task: AirBenchTask, retriever: str, reranker: str, run: TaskRun | Unjudged) -> None:
        save_results(self.results, SearchResults(task.name, task.split, retriever, reranker, run.ranking))

    def run(self, settings: dict[str, Setting]) -> dict[str, Any]:
        """Zero-shot on dev; every setting on test, submitted without and scored with the judgements.

        Takes
            settings: retriever's name -> setting, zero-shot first.
        """
        retriever, zero = next(iter(settings.items()))
        dev = self.dev.run(self.encoder, zero, self.model)
        self.save(self.dev, retriever, NO_RERANKER, dev)
        record: dict[str, Any] = {
            "passages": len(self.dev.data.passages),
            "queries": {task.split: len(task.data.queries) for task in (self.dev, self.test)},
            "candidate_examples": len(self.test.training_examples()),
            "dev zero-shot": described(dev.measurement),
            "test": {},
        }
        first: Measurement | None = None
        for retriever, setting in settings.items():
            effort = dataclasses.replace(self.encoder.effort)
            unjudged = self.test.run(self.encoder, setting, self.model)
            assert isinstance(unjudged, Unjudged), "the public folder must not know the answers"
            self.save(self.test, retriever, NO_RERANKER, unjudged)
            scored = self.kept.measure(dict(unjudged.ranking)).measurement
            first = first or scored
            seconds = self.encoder.effort.query_seconds - effort.query_seconds
            found = described(scored) | {"query_seconds": round(seconds, 1)}
            if setting.examples:
                gain = compare(scored, first, HOW)
                found["minus_zero_shot"] = [round(x, 4) for x in (gain.mean, gain.low, gain.high)]
            record["test"][setting.name] = found
        return record

    def rerank(self, scorer: PairScorer, retriever: str, setting: Setting, *, top_k: int) -> dict[str, Any]:
        """The second stage on dev and test, over the first stage's best passages."""
        record: dict[str, Any] = {"top_k": top_k}
        for task, judged in ((self.dev, self.dev), (self.test, self.kept)):
            before = task.run(self.encoder, setting, self.model)
            started = time.perf_counter()
            data = task.data
            ranking = rerank(
                before.ranking, scorer, queries=data.queries, passages=data.passages, top_k=top_k
            )
            seconds = time.perf_counter() - started
            self.save(task, retriever, RERANKER, task.measure(ranking))
            pair = [judged.measure(dict(one)).measurement for one in (before.ranking, ranking)]
            gain = compare(pair[1], pair[0], HOW)
            record[task.split] = {
                "before": described(pair[0]),
                "after": described(pair[1]),
                "gain": [round(x, 4) for x in (gain.mean, gain.low, gain.high)],
                "seconds": round(seconds, 1),
            }
        return record


def named(
    demos: dict[str, Demo], model: EvaluatedModel, shots: int, seeds: int
) -> dict[str, dict[str, Setting]]:
    """Setting by setting one retriever's name for all sets, as one archive needs it: set -> name -> setting."""
    found: dict[str, dict[str, Setting]] = {source: {} for source in demos}
    for settings in zip(*(demo.settings(shots, seeds) for demo in demos.values()), strict=True):
        asked = {
            source: {
                "instruction": one.instruction,
                "examples": [dataclasses.asdict(e) for e in one.examples],
            }
            for source, one in zip(demos, settings, strict=True)
        }
        name = retriever_name(model.name, model.fingerprint, settings[0].name, asked)
        for source, setting in zip(demos, settings, strict=True):
            found[source][name] = setting
    return found


def described(measured: Measurement) -> dict[str, float]:
    interval = measured.interval(HOW)
    return {
        "ndcg_at_10": round(measured.point, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
    }


def ask_the_package(out: Path, names: list[tuple[str, str]]) -> dict[str, Any]:
    """What ``air-benchmark`` itself says of our folder and results; empty where it is not importable."""
    if importlib.util.find_spec("air_benchmark") is None:
        return {}
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from air_benchmark.evaluation_utils import DataLoader, Evaluator
    from scripts.zip_results import zip_results

    here = Path.cwd()
    os.chdir(out)  # its loader finds the repositories in a folder AIR-Bench of the working directory
    try:
        evaluator = Evaluator(DataLoader("AIR-Bench_24.05", cache_dir=str(out / "hf")))
        found = {}
        for retriever, reranker in names:
            folder = out / "search_results" / retriever / reranker
            scores = evaluator.evaluate_results(str(folder), split="dev")
            found[f"{retriever} {reranker}"] = {
                "dev ndcg_at_10": {
                    f"{domain}_{dataset}": metrics["ndcg_at_10"]
                    for domain, languages in scores.get("qa", {}).items()
                    for dataset, metrics in languages["en"].items()
                },
                "packing_script_accepts": zip_results(
                    str(out / "search_results"),
                    str(out / "packed_by_the_package"),
                    retriever,
                    reranker,
                    overwrite=True,
                ),
            }
    finally:
        os.chdir(here)
    return found


def dev_score(record: dict[str, Any], name: str) -> float:
    """Ours, as the package's name for a run has it."""
    found = record["reranking"]["dev"]["after"] if name.endswith(RERANKER) else record["dev zero-shot"]
    return float(found["ndcg_at_10"])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="folder of sets in the folder format")
    parser.add_argument("--model", type=Path, required=True, help="folder of an embedder")
    parser.add_argument("--reranker", type=Path, help="folder of a reranker")
    parser.add_argument("--out", type=Path, required=True, help="written anew")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--shots", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--queries", type=int, help="per split; all unless given")
    parser.add_argument("--passages", type=int, help="per set, at least the relevant ones; all unless given")
    parser.add_argument("--rerank-top-k", type=int, default=10)
    parser.add_argument("--result", type=Path, default=RESULT)
    return parser.parse_args()


def main() -> int:
    options = parse()
    out = options.out.resolve()
    shutil.rmtree(out / "search_results", ignore_errors=True)
    machine = describe_machine(torch.get_num_threads())
    embedder = Embedder.load(options.model)
    model = EvaluatedModel(
        "icl-embed-demo", sha256_of(options.model / "model.safetensors")[:16], options.model
    )
    demos: dict[str, Demo] = {}
    for source in options.sets:
        name = TaskName.parse(SETS[source][0])
        sizes = {"num_queries": options.queries, "num_passages": options.passages}
        write_folders(options.source / source, name, SETS[source][1], out, **sizes)
        demos[source] = Demo(out, name, model, CachingEncoder(embedder))
    settings = named(demos, model, options.shots, options.seeds)
    names = [(retriever, NO_RERANKER) for retriever in settings[options.sets[0]]]
    tasks: dict[str, Any] = {}
    for source, demo in demos.items():
        tasks[source] = demo.run(settings[source]) | {"encoding": dataclasses.asdict(demo.encoder.effort)}
        print(json.dumps({source: tasks[source]}, indent=1), file=sys.stderr, flush=True)
    if options.reranker:
        from icl_embed.rerank.reranker import Reranker

        scorer = Reranker.load(options.reranker)
        names.append((names[0][0], RERANKER))
        for source, demo in demos.items():
            zero = settings[source][names[0][0]]
            tasks[source]["reranking"] = demo.rerank(scorer, names[0][0], zero, top_k=options.rerank_top_k)
    archives = {
        f"{retriever} {reranker}": pack_submission(
            out / "search_results", out / "submission", retriever=retriever, reranker=reranker
        ).name
        for retriever, reranker in names
    }
    package = ask_the_package(out, names)
    for name, told in package.items():
        told["equal_to_ours"] = {
            task: abs(score - dev_score(tasks[task.rpartition("_")[2]], name)) < 6e-5
            for task, score in told["dev ndcg_at_10"].items()
        }
    found = {
        "machine": machine,
        "drawn": {"queries": options.queries, "passages": options.passages},
        "model": {
            "fingerprint": model.fingerprint,
            "parameters": sum(p.numel() for p in embedder.model.parameters()),
        },
        "tasks": tasks,
        "archives": archives,
        "air_benchmark": package,
    }
    options.result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
