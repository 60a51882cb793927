"""A store with one embedder, what it was made from, and its scores."""

from __future__ import annotations

import shutil
from pathlib import Path

from icl_embed.evaluation.scores import EvaluationScores, SettingScore, write_scores
from icl_embed.store import Artefact, StageKey, Store

HOSTILE = "<script>alert(1)</script> | [x](javascript:1) ```"


def build_store(root: Path, model: Path, *, trained_set: str = "trained-set") -> tuple[Store, Artefact]:
    """The store, and its embedder."""
    store = Store(root)

    def add(stage, settings, inputs, label, fill):
        return store.build(StageKey(stage, 1, settings, inputs, label), fill)

    def copy(folder):
        shutil.copytree(model, folder, dirs_exist_ok=True)
        return {"steps": 7, "last_loss": 0.5}

    def nothing(folder):
        (folder / "empty").write_text("")
        return {}

    base = add("base-model", {"source": "pypi", "name": "tiny", "version": "1"}, {}, "base", copy)
    sets = {}
    for name in (trained_set, "unseen-set"):
        card = {"kind": "retrieval", "instruction": "Find", "source": {"kind": "local", "sha256": "0" * 64}}
        sets[name] = add("dataset", {"card": {**card, "name": name}}, {}, name, nothing).reference
    pool = add("pool", {"trained": [trained_set]}, sets, "pool", nothing)
    negatives = add("negatives", {}, {"pool": pool.reference}, "negatives", nothing)
    settings = {"train": {"optimizer": {"steps": 7}}, "seed": 0}
    made_from = {"base-model": base.reference, "negatives": negatives.reference}
    embedder = add("embedder", settings, made_from, "embedder", copy)
    for system, one, means in (("base", base, (0.101,)), ("trained", embedder, (0.612, 0.643))):
        for number, mean in enumerate(means):
            inputs = {"dataset": sets["unseen-set"], "model": one.reference}
            inputs |= {"pool": pool.reference} if number else {}
            asked = {"asked": {"shots": 3 * number, "quality": "clean"}, "split": "test"}
            add("score", asked, inputs, f"{system} {number}", score_writer(system, number, mean))
    return store, embedder


def score_writer(system, number, mean):
    def write(folder):
        setting, bounds = ("zero-shot", "3-shot fixed")[number], BOUNDS[system][number]
        results = (SettingScore(setting, 3 * number, mean, *bounds, num_queries=250, seconds=1.0),)
        write_scores(
            folder,
            EvaluationScores(
                "data/unseen-set", "retrieval", system, "0", "ndcg_at_10", "mean", False, 0.95, results
            ),
        )
        return {}

    return write


BOUNDS = {"base": ((0.08, 0.12),), "trained": ((0.55, 0.66), (0.58, 0.69))}
