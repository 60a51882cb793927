"""An exported reranker: its folder, and a model card that names data, recipe and what was measured."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from icl_embed.errors import ModelError
from icl_embed.export.card import card_template
from icl_embed.export.facts import ModelFacts
from icl_embed.model.base import refuse_incomplete
from icl_embed.report.reranking import RerankingFacts, read_reranking
from icl_embed.rerank.folder import HEADS_NAME, SETTINGS_NAME, RerankerSettings, read_reranker_settings
from icl_embed.store import Store
from icl_embed.store.files import write_atomically
from icl_embed.store.manifest import MANIFEST_NAME

SUFFIXES = {".safetensors", ".json", ".jinja", ".txt", ".model"}
TAGS = ("text-ranking", "reranker", "icl-embed")


def is_reranker(folder: Path) -> bool:
    """Whether a folder says that it is a reranker of this package."""
    return (folder / SETTINGS_NAME).is_file()


def write_reranker(model_dir: Path, out_dir: Path) -> RerankerSettings:
    """Fill ``out_dir`` with a reranker: safetensors, tokenizer and settings, and nothing else that lay there.

    Raises
        ModelError: the folder is incomplete, or holds weights that are no safetensors.
    """
    refuse_incomplete(model_dir)
    settings = read_reranker_settings(model_dir)
    for needed in (HEADS_NAME, "model*.safetensors"):
        if not any(model_dir.glob(needed)):
            raise ModelError(f"{model_dir} has no {needed}; only a whole reranker folder is exported")
    for path in sorted(model_dir.iterdir()):
        if path.is_file() and path.suffix in SUFFIXES and path.name != MANIFEST_NAME:
            shutil.copyfile(path, out_dir / path.name)
    return settings


def write_reranker_card(
    out_dir: Path,
    settings: RerankerSettings,
    facts: ModelFacts | None,
    measured: RerankingFacts | None,
    *,
    name: str,
    licence: str = "",
) -> None:
    """Write ``README.md``.

    Parameters
        facts: what the store knows of its data and recipe; None for a folder from elsewhere.
        measured: its newest evaluation, if there is one.
        licence: SPDX name of the weights' licence; ``other`` when it is not given.

    Raises
        StoreError: the disk refused.
    """
    front: dict[str, Any] = {
        "license": licence.lower() or "other",
        "library_name": "icl-embed",
        "pipeline_tag": "text-ranking",
        "tags": list(TAGS),
    }
    if facts is not None and facts.base.get("source") == "hub":
        front["base_model"] = facts.base["name"]
    trained = [one.hub_name for one in facts.datasets if one.is_trained_on and one.hub_name] if facts else []
    if trained:
        front["datasets"] = trained
    body = card_template("reranker_card.md.j2").render(
        name=name, settings=settings, facts=facts, measured=measured, licence=licence
    )
    header = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    write_atomically(out_dir / "README.md", f"---\n{header}---\n\n{body}".encode())


def newest_evaluation(store: Store, reference: str) -> RerankingFacts | None:
    """The newest evaluation of a reranker artefact in its store.

    Raises
        DataError: it cannot be read.
    """
    found = [
        one
        for one in store.artefacts()
        if one.stage == "reranker-evaluation" and one.manifest.key["inputs"].get("reranker") == reference
    ]
    return read_reranking(found[-1].path) if found else None
