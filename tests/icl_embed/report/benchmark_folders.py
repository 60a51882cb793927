"""A finished benchmark of one model, as artefacts: scores over shots, seeds and qualities, and four studies."""

import math

from icl_embed.evaluation.measurement import Bootstrap
from icl_embed.evaluation.significance import Randomisation
from icl_embed.experiments.corruptions import QUALITIES
from icl_embed.experiments.curves import Statistics, quality_rows, read_scored, shot_rows
from icl_embed.experiments.record import Study, write_study
from icl_embed.few_shot.settings import AskedSetting
from icl_embed.store import StageKey, Store
from tests.icl_embed.experiments.score_folders import score_folder

HOW = Statistics(Bootstrap(200), Randomisation(200))
HOSTILE = "<script>alert('x')</script> & \"quotes\" in a very long name of a task"
TASKS = (
    ("SciFact", "retrieval", 0.52, 0.06),
    (HOSTILE, "classification", 0.61, 0.10),
    ("STSBenchmark", "sts", 0.70, 0.0),
    ("CosQA", "retrieval", 0.24, -0.01),
)
SHOTS = (0, 1, 2, 3, 5, 8, 10)
DAMAGE = {"clean": 0.0, "label-noise-25": 0.2, "label-noise-50": 0.5, "label-noise-100": 1.4, "shuffled": 0.9}


def make_benchmark(home):
    """Write all artefacts; returns the folders of scores and of studies."""
    clean, corrupted = [], []
    for task, kind, level, gain in TASKS:
        aggregation = "spearman" if kind == "sts" else "mean"
        for shots in SHOTS:
            for seed in (0, 1) if shots else (0,):
                asked = AskedSetting(shots, "random", seed) if shots else AskedSetting(0)
                risen = level + gain * (1 - math.exp(-shots / 2)) + 0.004 * seed
                clean.append(folder(home, task, asked, risen, aggregation=aggregation, kind=kind))
        for quality in QUALITIES[1:]:
            asked = AskedSetting(5, "random", 0, quality)
            changed = level + gain * (0.92 - DAMAGE.get(quality, 0.7))
            corrupted.append(folder(home, task, asked, changed, aggregation=aggregation, kind=kind))
    five = [one for one in read_scored(clean) if one.asked.shots in (0, 5) and one.asked.seed == 0]
    store = Store(home / "store")
    studies = [
        Study("shots", "m", "print-of-m", tuple(shot_rows(read_scored(clean), HOW)), {"seeds": [0, 1]}),
        Study(
            "examples",
            "m",
            "print-of-m",
            tuple(quality_rows([*five, *read_scored(corrupted)], HOW)),
            {"shots": 5, "notes": ["Subsampled: 80 queries per task."]},
        ),
        Study(
            "overhead",
            "m",
            "print-of-m",
            tuple(overhead_rows()),
            {"machine": {"processor": "Example CPU", "threads": 2}},
        ),
        Study(
            "overlap",
            "m",
            "print-of-m",
            tuple(overlap_rows()),
            {"ngram": 13, "training_rows": 29261, "training_sets": ["news", "trivia"]},
        ),
    ]
    made = [
        store.build(
            StageKey("study", 1, {"name": study.name}, label=study.name),
            lambda out, study=study: write_study(out, study),
        ).path
        for study in studies
    ]
    return [*clean, *corrupted], made


def folder(home, task, asked, level, **facts):
    return score_folder(
        home / f"task{[name for name, *_ in TASKS].index(task)}",
        task,
        asked,
        level,
        **facts,
    )


def overhead_rows():
    for shots in (0, 1, 5, 10):
        for way in ("shared", "in full"):
            tokens = 20 + (52 * shots if way == "in full" else 6 * math.log1p(shots))
            yield {
                "shots": shots,
                "way": way,
                "examples_shown": min(shots, 9),
                "prefix_tokens": 14 + 52 * shots,
                "query_tokens": 18.4,
                "prompt_ms": 0.1 + 0.2 * shots,
                "prepare_ms": 3.0 + 20 * shots,
                "latency_p50_ms": 1.1 * tokens,
                "latency_p95_ms": 1.4 * tokens,
                "queries_per_second": 2000 / tokens,
                "queries_per_second_low": 1800 / tokens,
                "queries_per_second_high": 2100 / tokens,
                "peak_bytes": int(2e6 * tokens),
                "gflops_per_query_in_batch": 0.21 * tokens,
                "gflops_single_query": 0.21 * tokens,
                "largest_difference": 3e-7,
            }


def overlap_rows():
    for (task, *_), equal in zip(TASKS, (0, 31, 2, 0), strict=True):
        hits = [
            {
                "net": "equal",
                "evaluated": "How do I <b>pay</b>?",
                "dataset": "news",
                "training": "how do i <b>pay</b>?",
            }
        ]
        yield {
            "task": task,
            "role": "queries",
            "relation": "trained on" if equal > 9 else "unseen",
            "related_sets": [],
            "num_texts": 300,
            "num_long": 120,
            "num_equal": equal,
            "num_shared": equal // 2,
            "equal_share": equal / 300,
            "shared_share": (equal // 2) / 300,
            "equal_by_dataset": {"news": equal},
            "hits": hits if equal else [],
        }
