"""From what a user calls a model to its folder: a path, a label, a fingerprint's start, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icl_embed.errors import ModelError, StoreError
from icl_embed.store.artefact import Artefact, Store
from icl_embed.store.lineage import find
from icl_embed.store.manifest import read_manifest

EMBEDDERS = ("embedder", "base-model", "checkpoint", "control", "public-embedder")
RERANKERS = ("reranker",)


@dataclass(frozen=True)
class FoundModel:
    """A model's folder.

    Attributes
        artefact: what the folder is in a store; None for a folder of the user's own.
        store: the artefact's; for a folder of the user's own the one that was asked.
    """

    path: Path
    artefact: Artefact | None
    store: Store


def find_model(store: Store, name: str | Path, stages: tuple[str, ...] = EMBEDDERS) -> FoundModel:
    """The folder that ``name`` means, verified if it is an artefact.

    Parameters
        name: a folder, or what ``icl-embed store show`` understands; empty for the newest of the first stage.
        stages: what will do.

    Raises
        ModelError: there is none, or it is an artefact of another stage.
        StoreError: it is damaged.
    """
    if name and Path(name).is_dir():
        return _of_folder(store, Path(name), stages)
    found = _of_store(store, str(name), stages)
    _require(found, stages)
    return FoundModel(found.path, store.get(found.stage, found.fingerprint), store)


def _of_folder(store: Store, folder: Path, stages: tuple[str, ...]) -> FoundModel:
    whole = folder.resolve()
    if not _is_artefact(whole):
        return FoundModel(folder, None, store)
    home = Store(whole.parents[1])
    artefact = home.get(whole.parent.name, whole.name)
    _require(artefact, stages)
    return FoundModel(folder, artefact, home)


def _is_artefact(folder: Path) -> bool:
    """Whether a folder lies where its manifest says; a copy elsewhere is the user's own."""
    try:
        manifest = read_manifest(folder)
    except StoreError:
        return False
    return (manifest.stage, manifest.fingerprint) == (folder.parent.name, folder.name)


def _of_store(store: Store, name: str, stages: tuple[str, ...]) -> Artefact:
    if not name:
        newest = store.newest(stages[0])
        if newest is None:
            raise ModelError(
                f"the store {store.root} holds no {stages[0]}; train one with icl-embed run, or name a folder"
            )
        return newest
    try:
        return find(store, name, stages)
    except StoreError as error:
        raise ModelError(
            f"{name!r} is neither a folder nor an artefact of {store.root} ({error}); models are not "
            "downloaded here: give a folder, a label or stage/fingerprint"
        ) from error


def _require(found: Artefact, stages: tuple[str, ...]) -> None:
    if found.stage not in stages:
        raise ModelError(f"{found.reference} is no {' or '.join(stages)}; see icl-embed store ls")
