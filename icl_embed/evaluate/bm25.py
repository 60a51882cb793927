"""BM25, the lexical baseline (bm25s, Lucene variant, k1 1.5, b 0.75, English stop words, no stemmer)."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import bm25s
import numpy as np
from numpy.typing import NDArray

from icl_embed.errors import EvaluationError, NoBaselineError
from icl_embed.pool.words import bm25_tokens

logger = logging.getLogger(__name__)

VERSION = f"bm25s-{importlib.metadata.version('bm25s')}"
DESCRIPTION = "bm25s lucene k1=1.5 b=0.75, English stop words, no stemming, bigrams in scripts without spaces"
SHORTEST_WORD = 2

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it reports every index it builds


@dataclass(frozen=True)
class Bm25Index:
    """An index over passages, addressed by position; ``retriever`` is None if they have no word at all."""

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
        tokens = bm25_tokens(passages, shortest=SHORTEST_WORD)
        if not any(tokens):  # bm25s cannot index a corpus without a single word
            return cls(None, len(passages))
        retriever = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
        retriever.index(tokens, show_progress=False)
        return cls(retriever, len(passages))

    def known_words(self, query: str) -> list[str]:
        """The words of a query that some passage has."""
        (tokens,) = bm25_tokens([query], shortest=SHORTEST_WORD)
        return [token for token in tokens if self.retriever and token in self.retriever.vocab_dict]

    def scores(self, query: str) -> NDArray[np.float64]:
        """The score of every passage [P]; zeros when no word of the query is known."""
        known = self.known_words(query)
        if not known:
            return np.zeros(self.num_passages)
        return np.asarray(self.retriever.get_scores(known), dtype=np.float64)

    def best(self, query: str, count: int) -> list[tuple[int, float]]:
        """Up to ``count`` (position, score) pairs with a score above zero, best first."""
        scores = self.scores(query)
        order = np.argsort(-scores, kind="stable")[:count]
        return [(int(row), float(scores[row])) for row in order if scores[row] > 0]

    def refuse_as_baseline(self, queries: Sequence[str]) -> None:
        """Warn of queries that it can say nothing about.

        Raises
            NoBaselineError: it can say nothing about any of them.
        """
        silent = sum(not self.known_words(query) for query in queries)
        if queries and silent == len(queries):
            raise NoBaselineError(
                f"BM25 compares words, and none of the {len(queries)} queries has a word that any of the "
                f"{self.num_passages} passages has; there is no such baseline for these data"
            )
        if silent:
            logger.warning(
                "BM25: %d of %d queries have no word that any passage has; it finds nothing for them",
                silent,
                len(queries),
            )
