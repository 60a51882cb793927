"""BM25, the lexical baseline (bm25s, Lucene variant, k1 1.5, b 0.75, English stop words, no stemmer)."""

from __future__ import annotations

import importlib.metadata
import logging
from dataclasses import dataclass
from typing import Any

import bm25s
import numpy as np
from numpy.typing import NDArray

from icl_embed.errors import EvaluationError

VERSION = f"bm25s-{importlib.metadata.version('bm25s')}"
DESCRIPTION = "bm25s lucene k1=1.5 b=0.75, English stop words, no stemming"

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it reports every index it builds


@dataclass(frozen=True)
class Bm25Index:
    """An index over passages, addressed by their position."""

    retriever: Any
    num_passages: int

    @classmethod
    def build(cls, passages: list[str]) -> Bm25Index:
        """Index passages.

        Raises
            EvaluationError: there are none.
        """
        if not passages:
            raise EvaluationError("BM25 needs at least one passage, found none")
        retriever = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
        tokens = bm25s.tokenize(passages, stopwords="en", return_ids=False, show_progress=False)
        retriever.index(tokens, show_progress=False)
        return cls(retriever, len(passages))

    def scores(self, query: str) -> NDArray[np.float64]:
        """The score of every passage [P]; zeros when no word of the query is known."""
        (tokens,) = bm25s.tokenize([query], stopwords="en", return_ids=False, show_progress=False)
        known = [token for token in tokens if token in self.retriever.vocab_dict]
        if not known:
            return np.zeros(self.num_passages)
        return np.asarray(self.retriever.get_scores(known), dtype=np.float64)

    def best(self, query: str, count: int) -> list[tuple[int, float]]:
        """Up to ``count`` (position, score) pairs with a score above zero, best first."""
        scores = self.scores(query)
        order = np.argsort(-scores, kind="stable")[:count]
        return [(int(row), float(scores[row])) for row in order if scores[row] > 0]
