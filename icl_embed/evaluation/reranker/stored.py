"""A reranker's choice and its candidates, found in the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.reranker.tuning import CHOICE_NAME
from icl_embed.evaluation.scores import TOP_PASSAGES_NAME
from icl_embed.store import Artefact, Store

RERANKER, CHOICE, EVALUATION = "reranker", "reranker-choice", "evaluation"


def find_choice(folder: Path, store: Store) -> Path | None:
    """The newest choice that was made for the reranker in a folder of the store, if there is one."""
    made = [
        one
        for one in store.artefacts()
        if one.stage == CHOICE
        and one.manifest.key["inputs"].get(RERANKER, "").rpartition("/")[2] == folder.name
    ]
    return made[-1].path / CHOICE_NAME if made else None


def find_evaluations(store: Store, *, split: Literal["dev", "test"]) -> list[Artefact]:
    """The newest embedder's evaluations of ranking data sets, as the pipeline made them.

    Raises
        EvaluationError: there is none.
        StoreError: one is damaged.
    """
    found = _evaluations(store, split, "trained")
    if not found:
        raise EvaluationError(
            f"the store {store.root} has no evaluation of an embedder on a {split} split; "
            "icl-embed run distill-reranker makes them, or give your own with --candidates"
        )
    newest = found[-1].manifest.key["inputs"]["model"]
    mine = [one for one in found if one.manifest.key["inputs"]["model"] == newest]
    by_dataset = {str(one.manifest.key["settings"]["dataset"]): one for one in mine}
    return [store.get(one.stage, one.fingerprint) for _, one in sorted(by_dataset.items())]


def find_bm25(store: Store, evaluations: Sequence[Artefact]) -> list[Path]:
    """BM25's evaluations of the same data set artefacts; fewer where there are none."""
    wanted = {one.manifest.key["inputs"]["dataset"] for one in evaluations}
    found = {one.manifest.key["inputs"]["dataset"]: one.path for one in _evaluations(store, "test", "bm25")}
    return [path for dataset, path in found.items() if dataset in wanted]


def _evaluations(store: Store, split: str, system: str) -> list[Artefact]:
    """Oldest first."""
    return [
        one
        for one in store.artefacts()
        if one.stage == EVALUATION
        and one.manifest.key["settings"].get("split", "test") == split  # early ones knew no other
        and one.manifest.key["settings"].get("system") == system
        and (one.path / TOP_PASSAGES_NAME).exists()
    ]
