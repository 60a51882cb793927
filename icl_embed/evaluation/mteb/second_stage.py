"""A reranker as mteb sees it: a cross-encoder for reranking tasks, or the second of two stages of a search.

::


    reranker = Reranker.load(folder)
    mteb.evaluate(MtebCrossEncoder(reranker, describe_reranker("mine", "2026-11")), tasks)

mteb's own two-stage protocol is to save the first stage's predictions and to give them to
``task.convert_to_reranking``; ``MtebTwoStage`` does the same in one run, without files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from mteb.models.model_meta import ModelMeta
from mteb.models.search_wrappers import SearchEncoderWrapper
from numpy.typing import NDArray

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.mteb.run import ORGANISATION
from icl_embed.evaluation.reranking import RERANK_TOP_K, PairScorer, Ranking, rerank, whole_queries


def describe_reranker(
    name: str, fingerprint: str, *, way: str = "", first_stage: str = "", top_k: int | None = None
) -> ModelMeta:
    """Metadata that no other reranker, way to run it and first stage share.

    Parameters
        way: how it is run, such as ``layer 18, ratio 2 from 6``; empty for full depth.
    """
    experiment = {"way": way, "first_stage": first_stage, "top_k": top_k}
    return ModelMeta.create_empty(
        {
            "name": f"{ORGANISATION}/{re.sub(r'[^A-Za-z0-9._-]+', '-', name) or 'reranker'}",
            "revision": fingerprint,
            "model_type": ["cross-encoder"],
            "modalities": ["text"],
            "experiment_kwargs": {key: value for key, value in experiment.items() if value} or None,
        }
    )


class MtebCrossEncoder:
    """Scores the pairs that mteb asks for; for reranking tasks.

    Parameters
        scorer: a ``Reranker``, or one that runs in a chosen way (``rerank.running.InWay``).
    """

    def __init__(self, scorer: PairScorer, meta: ModelMeta) -> None:
        self.scorer = scorer
        self.mteb_model_meta = meta

    def predict(self, inputs1: Iterable[Any], inputs2: Iterable[Any], **_: Any) -> NDArray[np.float64]:
        """Scores [N]: of each query of ``inputs1`` with the passage of ``inputs2`` at the same place.

        Raises
            EvaluationError: not as many passages as queries, or not as many finite scores.
        """
        queries, passages = (
            [_not_empty(text) for batch in one for text in batch["text"]] for one in (inputs1, inputs2)
        )
        if len(queries) != len(passages):
            raise EvaluationError(f"mteb gave {len(queries)} queries and {len(passages)} passages to pair")
        pairs = list(zip(queries, passages, strict=True))
        parts = [
            np.asarray(self.scorer.score(pairs[together]), np.float64) for together in whole_queries(queries)
        ]
        scores = np.concatenate([*parts, np.empty(0)])
        if scores.shape != (len(pairs),) or not np.isfinite(scores).all():
            raise EvaluationError(
                f"the reranker gave scores of shape {scores.shape} for {len(pairs)} pairs, "
                f"{int((~np.isfinite(scores)).sum())} of them not finite"
            )
        return scores


class MtebTwoStage:
    """A first stage searches, the reranker orders its best passages; for retrieval and reranking tasks.

    Parameters
        first: an encoder (``MtebEncoder``) or a searcher (``MtebBm25``, ``GivenRanking``).
        top_k: passages per query that are reranked; those beyond are dropped, as mteb does. The candidates of
            a reranking task are all reranked, and no first stage is asked.
    """

    def __init__(self, first: Any, scorer: PairScorer, meta: ModelMeta, *, top_k: int = RERANK_TOP_K) -> None:
        self.first = first if hasattr(first, "search") else SearchEncoderWrapper(first)
        self.scorer, self.top_k = scorer, top_k
        self.mteb_model_meta = meta
        self._passages: dict[str, str] = {}

    def index(self, corpus: Any, **more: Any) -> None:
        """Keep the passages, each with its title, as encoders read it, and let the first stage index them."""
        self._passages = dict(zip(corpus["id"], map(_not_empty, _texts(corpus)), strict=True))
        self.first.index(corpus, **more)

    def search(
        self, queries: Any, *, top_k: int, top_ranked: Mapping[str, list[str]] | None = None, **more: Any
    ) -> Ranking:
        """The reranked passages of each query."""
        if top_ranked is None:
            wanted = min(self.top_k, top_k)
            found = self.first.search(queries, top_k=wanted, top_ranked=None, **more)
        else:
            found = {key: _as_ranked(names) for key, names in top_ranked.items()}
            wanted = max(map(len, found.values()), default=1) or 1
        texts = dict(zip(queries["id"], map(_not_empty, queries["text"]), strict=True))
        known = {key: found.get(key, {}) for key in texts}
        return rerank(known, self.scorer, queries=texts, passages=self._passages, top_k=wanted)


def second_stage_for_mteb(
    ranking: Mapping[str, Mapping[str, float]], scorer: PairScorer, *, task: str, top_k: int
) -> MtebTwoStage:
    """The second stage alone, over what a first stage found before.

    Raises
        EvaluationError: there is no ranking, because the task does not search.
    """
    if not ranking:
        raise EvaluationError(f"{task}: there is no ranking to rerank; only searches have one")
    return MtebTwoStage(
        GivenRanking(ranking), scorer, describe_reranker("reranker", "second-stage"), top_k=top_k
    )


class GivenRanking:
    """A first stage that searched before: its ranking is taken as it is."""

    def __init__(self, ranking: Mapping[str, Mapping[str, float]]) -> None:
        self._ranking = ranking

    def index(self, corpus: Any, **_: Any) -> None:
        """Nothing to index."""

    def search(self, queries: Any, **_: Any) -> Ranking:
        """What was found for each of the queries."""
        return {key: dict(self._ranking.get(key, {})) for key in queries["id"]}


def _texts(corpus: Any) -> list[str]:
    texts = list(corpus["text"])
    if "title" not in corpus.column_names:
        return texts
    pairs = zip(corpus["title"], texts, strict=True)
    return [f"{title} {text}".strip() if title else text for title, text in pairs]


def _not_empty(text: str) -> str:
    """Some of mteb's corpora hold empty passages, which a reranker refuses; they must not end a whole run."""
    return text if text.strip() else "(empty)"


def _as_ranked(names: list[str]) -> dict[str, float]:
    """Candidates in their order, as falling scores."""
    return {name: -float(place) for place, name in enumerate(names)}
