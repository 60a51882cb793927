"""A reranker's choice and its candidates, found in the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.reranker.tuning import CHOICE_NAME
from icl_embed.evaluation.scores import BM25, STAGE, TOP_PASSAGES_NAME
from icl_embed.store import Artefact, Store

RERANKER, CHOICE = "reranker", "reranker-choice"
MODELS = ("embedder/", "checkpoint/")  # what is trained here; a base model is only compared with


def find_choice(folder: Path, store: Store) -> Path | None:
    """The newest choice that was made for the reranker in a folder of the store, if there is one."""
    made = [
        one
        for one in store.artefacts()
        if one.stage == CHOICE
        and one.manifest.key["inputs"].get(RERANKER, "").rpartition("/")[2] == folder.name
    ]
    return made[-1].path / CHOICE_NAME if made else None


def find_scores(store: Store, *, split: Literal["dev", "test"]) -> list[Artefact]:
    """The newest scored embedder's scores of ranking data sets.

    Raises
        EvaluationError: there is none.
        StoreError: one is damaged.
    """
    found = [
        one
        for one in _searches(store, split)
        if one.manifest.key["inputs"].get("model", "").startswith(MODELS)
    ]
    if not found:
        raise EvaluationError(
            f"the store {store.root} has no score of an embedder on a {split} split; "
            "icl-embed run distill-reranker makes them, or give your own with --candidates"
        )
    newest = found[-1].manifest.key["inputs"]["model"]
    by_label = {one.manifest.label: one for one in found if one.manifest.key["inputs"]["model"] == newest}
    return [store.get(one.stage, one.fingerprint) for _, one in sorted(by_label.items())]


def find_bm25(store: Store, scores: Sequence[Artefact]) -> list[Path]:
    """BM25's scores of the same data set artefacts; fewer where there are none."""
    wanted = {one.manifest.key["inputs"]["dataset"] for one in scores}
    found = {
        one.manifest.key["inputs"]["dataset"]: one.path
        for one in _searches(store, "test")
        if one.manifest.counts.get("model") == BM25
    }
    return [path for dataset, path in found.items() if dataset in wanted]


def _searches(store: Store, split: str) -> list[Artefact]:
    """Scores of own cards that are searched, without a reranker after it; oldest first."""
    return [
        one
        for one in store.artefacts()
        if one.stage == STAGE
        and one.manifest.key["settings"].get("split") == split
        and "reranker" not in one.manifest.key["settings"]
        and (one.path / TOP_PASSAGES_NAME).exists()
    ]
