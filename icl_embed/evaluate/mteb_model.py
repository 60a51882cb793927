"""Our models as mteb sees them: an encoder with an instruction and examples, and BM25 as a searcher.

mteb knows nothing of examples and keys results by model name, revision and ``experiment_kwargs``; so the
model's fingerprint is the revision, and the shots and the hash of the examples are the experiment.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType

from icl_embed.errors import EvaluationError
from icl_embed.evaluate.bm25 import Bm25Index
from icl_embed.evaluate.encoding import CachingEncoder, Setting, Vectors
from icl_embed.store.key import canonical_json

ORGANISATION = "icl-embed"


class MtebEncoder(AbsEncoder):  # type: ignore[misc]  # mteb is untyped to us
    """Passages are encoded as passages; everything else is a query with the instruction and examples.

    Symmetric tasks pass no prompt type: both sides are queries.
    """

    def __init__(self, encoder: CachingEncoder, setting: Setting, meta: ModelMeta) -> None:
        self.model = encoder
        self.setting = setting
        self.mteb_model_meta = meta

    def encode(self, inputs: Iterable[Any], *, prompt_type: PromptType | None = None, **_: Any) -> Vectors:
        """Unit vectors [N, D] of the texts of all batches."""
        texts = [text for batch in inputs for text in batch["text"]]
        if prompt_type is PromptType.document:
            return self.model.passages(texts)
        return self.model.queries(texts, self.setting)


class MtebBm25:
    """BM25 behind mteb's search protocol, for the same metric code as every other model."""

    def __init__(self, meta: ModelMeta) -> None:
        self.mteb_model_meta = meta
        self._ids: list[str] = []
        self._index: Bm25Index | None = None

    def index(self, corpus: Any, **_: Any) -> None:
        """Index the passages of a task, each with its title, as encoders read it."""
        self._ids = list(corpus["id"])
        texts = list(corpus["text"])
        if "title" in corpus.column_names:
            pairs = zip(corpus["title"], texts, strict=True)
            texts = [f"{title} {text}".strip() if title else text for title, text in pairs]
        self._index = Bm25Index.build(texts)

    def search(
        self, queries: Any, *, top_k: int, top_ranked: dict[str, list[str]] | None = None, **_: Any
    ) -> dict[str, dict[str, float]]:
        """Scores of the best passages of each query, or of its candidates when those are given.

        Raises
            NoBaselineError: no query has a word that any passage has.
        """
        if self._index is None:
            raise EvaluationError("mteb searched before it indexed the passages")
        self._index.refuse_as_baseline(list(queries["text"]))
        position = {name: row for row, name in enumerate(self._ids)}
        results: dict[str, dict[str, float]] = {}
        for query_id, text in zip(queries["id"], queries["text"], strict=True):
            if top_ranked is None:
                found = self._index.best(text, top_k)
            else:
                rows = [position[name] for name in top_ranked[query_id]]
                found = list(zip(rows, self._index.scores(text)[rows].tolist(), strict=True))
            results[query_id] = {self._ids[row]: score for row, score in found}
        return results


def describe_model(name: str, fingerprint: str, setting: Setting, *, dimension: int | None) -> ModelMeta:
    """Model metadata that no other model, checkpoint or example set shares."""
    shots = {"shots": len(setting.examples), "examples": hash_examples(setting)}
    return ModelMeta.create_empty(
        {
            "name": f"{ORGANISATION}/{re.sub(r'[^A-Za-z0-9._-]+', '-', name) or 'model'}",
            "revision": fingerprint,
            "similarity_fn_name": ScoringFunction.COSINE if dimension else None,
            "embed_dim": dimension,
            "use_instructions": dimension is not None,
            "modalities": ["text"],
            "experiment_kwargs": shots if dimension else None,
        }
    )


def hash_examples(setting: Setting) -> str:
    """A short hash of the instruction and the examples, in order, or of how they are chosen."""
    shown = [[example.query, example.response] for example in setting.examples]
    asked = {"instruction": setting.instruction, "examples": shown}
    if setting.choose is not None:
        asked["chosen"] = setting.choose.name
    text = canonical_json(asked)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
