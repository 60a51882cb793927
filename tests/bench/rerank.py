"""The lightweight reranker against its own full depth, and against the reference way to run it (``make bench-rerank``).

Quality on the embedder's top 50 of every retrieval and reranking test set: first stage, BM25, every exit and width,
with paired intervals. The lightweight way is chosen on development queries first. Three contestants then rerank the
same test queries by turns, in one process, in one number format: the lightweight way, full depth (queries shared,
packed), and the reference way (every pair whole and padded, full depth, at the batch size with which it is fastest).
Tokenisation is nobody's time. Times are ratios of medians over the rounds. The result goes to
``tests/bench/results/rerank.json``.

- ``flops_saved``: share of the operations of full depth that recomputes each query, counted on the real lengths.
- ``relative_ndcg_loss``: of the lightweight way against full depth, nDCG@10 averaged over data sets.
- ``time_vs_full_depth``, ``time_vs_reference``: time of the lightweight way over theirs, all queries given in one call.
- ``latency_vs_full_depth``, ``latency_vs_reference``: the same with a call for each query.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from icl_embed.evaluation.measurement import Bootstrap
from icl_embed.evaluation.reranker.candidates import Candidates, read_candidates
from icl_embed.evaluation.reranker.comparison import compare_rerankers
from icl_embed.evaluation.reranker.measure import curve_of, measure_systems, summarise
from icl_embed.evaluation.reranker.tuning import ChoiceRecord, Limit, shown_tried, tune_on
from icl_embed.rerank.reranker import Reranker
from icl_embed.rerank.ways import name_of, way_of_record
from icl_embed.store.manifest import library_versions
from tests.bench.machine import describe_machine
from tests.bench.options import common_options, write_result
from tests.bench.rerank_flops import count_operations
from tests.bench.rerank_material import RerankMaterial, quick_rerank_material, real_rerank_material
from tests.bench.rerank_timing import TimedQueries
from tests.bench.rounds import Announcer, Say

NAME = "rerank"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark and write its result."""
    parser = common_options(__doc__)
    parser.add_argument("--preset", default="demo", help="whose models, data and settings")
    parser.add_argument("--max-loss", type=float, help="nDCG@10 points; default: the preset's")
    parser.add_argument(
        "--queries", type=int, default=40, help="test queries that are timed, over all data sets"
    )
    parser.add_argument("--dtype", default="", help="float32 or bfloat16; default: the preset's")
    parser.add_argument(
        "--plain", action="store_true", help="also train without self-distillation, and compare"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    about, say = describe_machine(options.threads), Announcer()
    with tempfile.TemporaryDirectory() as scratch:
        if options.quick:
            material = quick_rerank_material(Path(scratch))
        else:
            material = real_rerank_material(options.preset, options.set, with_plain=options.plain, say=say)
        measured = RerankBenchmark(material, options, say).run()
    return write_result(options, NAME, {**measured, **about, "libraries": library_versions()})


class RerankBenchmark:
    """Choose, measure, time."""

    def __init__(self, material: RerankMaterial, options: argparse.Namespace, say: Say) -> None:
        self.material, self.options, self.say = material, options, say
        self.how = Bootstrap(seed=material.seed)
        self.dtype = options.dtype or material.dtype
        self.reranker = Reranker.load(material.reranker, device="cpu", dtype=self.dtype)

    def run(self) -> dict[str, Any]:
        """All figures."""
        material, config = self.material, self.material.config
        record = self.choose()
        way = way_of_record(record.chosen, self.reranker.settings)
        self.say(f"chosen: {name_of(way)}")
        test = self.read(material.test, config.max_queries)
        systems = measure_systems(
            self.reranker,
            test,
            way,
            ratios=config.compress_ratios_trained,
            batch_tokens=config.batch_tokens,
            bm25=material.bm25,
            progress=self.progress,
        )
        quality = summarise(systems, self.how)
        timed = TimedQueries.of(self.reranker, test, self.options.queries, batch_tokens=config.batch_tokens)
        times = timed.compare(material.reranker, way, rounds=self.options.rounds, say=self.say)
        return {
            "flops_saved": round(quality["flops_saved_against_recomputing_queries"], 4),
            "relative_ndcg_loss": round(quality["relative_loss"], 4),
            **times.pop("headlines"),
            "flops_saved_against_shared_full_depth": round(quality["flops_saved_fraction"], 4),
            "relative_ndcg_loss_interval": quality["relative_loss_interval"],
            "chosen": quality["chosen"],
            "tuning": _tuning(record, self.reranker),
            "quality": quality,
            "ways": curve_of(systems, self.how),
            "times": times,
            "operations": count_operations(material.reranker, test, way),
            "self_distillation": self.against_plain(test),
            "setting": {
                "top_k": config.top_k,
                "max_queries": config.max_queries,
                "dtype": str(self.reranker.model.decoder.dtype).removeprefix("torch."),
                "rounds": self.options.rounds,
                "batch_tokens": config.batch_tokens,
                **material.about,
            },
        }

    def choose(self) -> ChoiceRecord:
        """The lightweight way, on development queries."""
        config = self.material.config
        points = config.tune.max_loss if self.options.max_loss is None else self.options.max_loss
        return tune_on(
            self.reranker,
            self.read(self.material.dev, config.tune.max_queries),
            limit=Limit(points / 100, config.tune.safe, self.how),
            ratios=config.compress_ratios_trained,
            cascades=config.tune.cascades,
            batch_tokens=config.batch_tokens,
            progress=self.progress,
        )

    def read(self, folders: Sequence[Path], max_queries: int) -> list[Candidates]:
        """Candidates of evaluations."""
        top_k, seed = self.material.config.top_k, self.material.seed
        return read_candidates(folders, top_k=top_k, max_queries=max_queries, seed=seed)

    def against_plain(self, inputs: Sequence[Candidates]) -> dict[str, Any] | None:
        """Self-distillation against heads that were trained each on its own."""
        if self.material.plain is None:
            return None
        plain = Reranker.load(self.material.plain, device="cpu", dtype=self.dtype)
        found = compare_rerankers(
            self.reranker, plain, inputs, self.how, batch_tokens=self.material.config.batch_tokens
        )
        return asdict(found)

    def progress(self, what: str, behind: int, total: int) -> None:
        """One line per data set or cascade."""
        if behind == total:
            self.say(f"{what}: {total} queries")


def _tuning(record: ChoiceRecord, reranker: Reranker) -> dict[str, Any]:
    result = record.chosen_result
    return {
        "max_loss": record.max_loss,
        "bound": record.bound,
        "loss_on_dev": result.loss.model_dump(),
        "flops_saved_on_dev": round(result.flops_saved_fraction, 4),
        "queries": record.datasets,
        "ways_tried": len(record.tried),
        "efficient": [
            {
                "way": name_of(way_of_record(one.way, reranker.settings)),
                "ndcg": round(one.ndcg.mean, 4),
                "gflops_per_query": round(one.gflops_per_query, 3),
            }
            for one in shown_tried(record)
        ],
    }


if __name__ == "__main__":
    main()
