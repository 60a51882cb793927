"""Rerankers, their choices and their candidates, found in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from icl_embed.config import RANKING_KINDS
from icl_embed.errors import EvaluationError, ModelError, StoreError
from icl_embed.evaluate.scores import TOP_PASSAGES_NAME, read_scores
from icl_embed.rerank.choice import CHOICE_NAME
from icl_embed.store import Artefact, Store
from icl_embed.store.lineage import find

RERANKER, CHOICE, EVALUATION, EMBEDDER = "reranker", "reranker-choice", "evaluation", "embedder"


def find_reranker(reference: str, store: Store) -> Path:
    """The folder of a reranker: a folder, an artefact, or the newest of the store for an empty reference.

    Raises
        ModelError: there is none, or the artefact is not a reranker.
        StoreError: it is damaged.
    """
    if not reference:
        newest = store.newest(RERANKER)
        if newest is None:
            raise ModelError(
                f"the store {store.root} holds no reranker; train one with icl-embed run distill-reranker, "
                "or name a folder with --model"
            )
        return store.get(RERANKER, newest.fingerprint).path
    if Path(reference).is_dir():
        return Path(reference)
    try:
        found = find(store, reference)
    except StoreError as error:
        raise ModelError(f"{reference!r} is neither a folder nor an artefact: {error}") from error
    if found.stage != RERANKER:
        raise ModelError(f"{reference!r} is {found.reference}, expected a reranker")
    return store.get(found.stage, found.fingerprint).path


def find_choice(folder: Path, store: Store) -> Path | None:
    """The newest choice that was made for the reranker in a folder of the store, if there is one."""
    made = [
        one
        for one in store.artefacts()
        if one.stage == CHOICE
        and one.manifest.key["inputs"].get(RERANKER, "").rpartition("/")[2] == folder.name
    ]
    return made[-1].path / CHOICE_NAME if made else None


def find_evaluations(store: Store, *, split: Literal["dev", "test"], system: str = "trained") -> list[Path]:
    """The newest evaluation of each ranking data set by one system, as the pipeline made them.

    Those of an embedder are of the newest one that has any, so that all candidates have one first stage.

    Raises
        EvaluationError: there is none.
    """
    found = [
        one
        for one in store.artefacts()
        if one.stage == EVALUATION and _is_wanted(one, split=split, system=system)
    ]
    if found and system == "trained":
        newest = found[-1].manifest.key["inputs"]["model"]
        found = [one for one in found if one.manifest.key["inputs"]["model"] == newest]
    if not found:
        raise EvaluationError(
            f"the store {store.root} has no evaluation of an embedder on a {split} split; "
            "icl-embed run distill-reranker makes them, or give your own with --candidates"
        )
    by_dataset = {str(one.manifest.key["settings"]["dataset"]): one for one in found}
    return [store.get(one.stage, one.fingerprint).path for _, one in sorted(by_dataset.items())]


def _is_wanted(artefact: Artefact, *, split: str, system: str) -> bool:
    settings = artefact.manifest.key["settings"]
    if (settings.get("split"), settings.get("system")) != (split, system):
        return False
    return (artefact.path / TOP_PASSAGES_NAME).exists() and read_scores(artefact.path).kind in RANKING_KINDS
