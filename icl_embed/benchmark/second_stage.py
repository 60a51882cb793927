"""A reranker after the model of a run: which one, run how, over how many passages."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from icl_embed.evaluate.evaluated import EvaluatedModel
from icl_embed.evaluate.reranking import PairScorer
from icl_embed.store import Store
from icl_embed.store.key import canonical_json


@dataclass(frozen=True)
class SecondStage:
    """A reranker that orders the first passages of every search again.

    Attributes
        fingerprint: of everything in its folder.
        choice: what tuning chose for it; None runs it at full depth.
        top_k: passages per query that are reranked; those beyond are dropped.
    """

    name: str
    fingerprint: str
    folder: Path
    choice: Path | None = None
    top_k: int = 100
    device: str = "auto"
    dtype: str = "auto"

    @cached_property
    def way(self) -> str:
        """How it is run, in words.

        Raises
            ConfigError: the choice was made for another reranker, or is damaged.
        """
        from icl_embed.rerank.measuring.choice import read_choice, way_of
        from icl_embed.rerank.saved import read_reranker_settings
        from icl_embed.rerank.ways import name_of

        if self.choice is None:
            return "full depth"
        return name_of(way_of(read_choice(self.choice), read_reranker_settings(self.folder)))

    @cached_property
    def scorer(self) -> PairScorer:
        """The reranker itself, loaded when first needed.

        Raises
            ModelError: it cannot be loaded.
        """
        from icl_embed.rerank.measuring.choice import read_choice, way_of
        from icl_embed.rerank.running import InWay
        from icl_embed.rerank.score import Reranker

        reranker = Reranker.load(self.folder, device=self.device, dtype=self.dtype)
        if self.choice is None:
            return reranker
        return InWay(reranker, way_of(read_choice(self.choice), reranker.settings))

    def as_json(self) -> dict[str, str | int]:
        """What decides a score."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "way": self.way,
            "top_k": self.top_k,
            "dtype": self.dtype,
        }

    def after(self, first: EvaluatedModel) -> EvaluatedModel:
        """First stage and reranker under a name and fingerprint of their own."""
        both = canonical_json([first.fingerprint, self.as_json()])
        way = "" if self.choice is None else f", {self.way}"
        return replace(
            first,
            name=f"{first.name}+{self.name} on {self.top_k}{way}",
            fingerprint=hashlib.sha256(both.encode()).hexdigest()[:16],
        )


def open_second_stage(
    reference: str, store: Store, *, choice: Path | None, top_k: int, device: str, dtype: str
) -> SecondStage:
    """Find a reranker and its fingerprint; its weights are not loaded yet.

    Raises
        ModelError: there is no such reranker.
        ConfigError: the choice is not for it.
    """
    from icl_embed.model.fingerprints import folder_fingerprint
    from icl_embed.store.models import RERANKERS, find_model

    folder = find_model(store, reference, RERANKERS).path
    fingerprint = folder_fingerprint(folder)
    name = folder.resolve().name if Path(reference).is_dir() else f"reranker-{fingerprint[:8]}"
    found = SecondStage(name, fingerprint, folder, choice, top_k, device, dtype)
    _ = found.way  # what is wrong with the choice is said before anything is searched
    return found
