"""Score artefacts as ``icl-embed eval run`` leaves them, with values that are drawn around a known level."""

import zlib

import numpy as np

from icl_embed.evaluation.measurement import Bootstrap, Measurement
from icl_embed.evaluation.scores import EvaluationScores, SettingScore, write_scores, write_values
from icl_embed.few_shot.settings import AskedSetting

ITEMS = 80


def measured(task, level, noise, *, aggregation="mean"):
    """Values whose mean is exactly ``level``; ``noise`` names the part that differs between settings."""
    own = np.random.default_rng(zlib.crc32(f"{task}:{noise}".encode())).normal(scale=0.05, size=ITEMS)
    items = np.random.default_rng(zlib.crc32(task.encode())).normal(scale=0.2, size=ITEMS)
    values = own + items
    values = values - values.mean() + level
    targets = tuple(np.linspace(0, 5, ITEMS)) if aggregation == "spearman" else None
    if targets:
        values = np.linspace(0, 1, ITEMS) + values * (1 - level) * 3
    ids = tuple(f"q{n}" for n in range(ITEMS))
    return Measurement(task, aggregation, ids, tuple(values.tolist()), targets)


def score_folder(
    home, task, asked: AskedSetting, level, *, model="m", aggregation="mean", kind="retrieval", **facts
):
    """Write one folder and return it."""
    folder = home / f"{model} {task} {asked.name}".replace(" ", "_").replace("/", "-")
    folder.mkdir(parents=True)
    measurement = measured(task, level, asked.name, aggregation=aggregation)
    interval = measurement.interval(Bootstrap(200))
    result = SettingScore(
        setting=asked.name,
        shots=asked.shots,
        mean=measurement.point,
        low=interval.low,
        high=interval.high,
        num_queries=ITEMS,
        seconds=1.0,
        query_tokens_mean=20.0 + 40 * asked.shots,
        query_seconds=1.0 + 0.1 * asked.shots,
        passage_seconds=0.0,
        encoded_queries=ITEMS,
        selection=asked.selection if asked.shots else "",
        seed=asked.seed,
        quality=asked.quality,
        examples_shown=asked.shots,
    )
    defaults = {
        "dataset": task,
        "kind": kind,
        "model": model,
        "model_fingerprint": f"print-of-{model}",
        "metric": "ndcg_at_10" if aggregation == "mean" else "cosine_spearman",
        "aggregation": aggregation,
        "trained_on": False,
        "confidence": 0.95,
        "family": "mteb",
        "served_from": "mirror",
    }
    scores = EvaluationScores(**{**defaults, **facts}, results=(result,))
    write_scores(folder, scores)
    write_values(folder, {asked.name: measurement})
    return folder
