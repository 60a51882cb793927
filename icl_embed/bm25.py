"""BM25, the lexical baseline and example search, over words of any script (bm25s).

Most scripts set spaces between words. Chinese, Japanese, Thai, Lao, Khmer, Myanmar and a few of their
neighbours do not: a sentence of theirs would be one word that no other text has. A run of such characters is
therefore taken as its overlapping pairs (as Lucene takes them); one that stands alone is a word. Everything
else is split exactly as bm25s and scikit-learn split it.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icl_embed.errors import EvaluationError, NoBaselineError

# Where bm25s finds JAX it starts it: on a GPU that takes most of the memory, or fails where another has it.
_jax = {name: sys.modules.pop(name, None) for name in ("jax", "jax.lax")}
sys.modules.update(dict.fromkeys(_jax))  # type: ignore[arg-type]  # None: cannot be imported
import bm25s  # noqa: E402
from bm25s.stopwords import STOPWORDS_EN  # noqa: E402

for _name, _module in _jax.items():
    del sys.modules[_name]
    if _module is not None:
        sys.modules[_name] = _module

WORDS_VERSION = 2  # raise it when a text gives other words; 1 knew no scripts without spaces

# Letters and marks of UAX 14's line breaking classes SA (South East Asian) and ID (Han, kana), without their
# digits and punctuation. Hangul is written with spaces.
_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai
    "\u0e81-\u0ece\u0edc-\u0edf"  # Lao
    "\u1000-\u103f\u1050-\u109d\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa7f"  # Myanmar
    "\u1780-\u17d3\u17d7\u17dc\u17dd"  # Khmer
    "\u1950-\u1974\u1980-\u19c9\u1a20-\u1a5e\u1a60-\u1a7c\u1a7f\uaa80-\uaadd"  # Tai
    "\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff"  # Han
    "\uf900-\ufaff\U00020000-\U0003fffd"
    "\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
)
_RUNS = re.compile(f"([{_UNSPACED}]+)")
_SPACED = {shortest: re.compile(rf"(?u)\b\w{{{shortest},}}\b") for shortest in (1, 2)}
_STOP_WORDS = frozenset(STOPWORDS_EN)


def words_of(text: str, *, shortest: int = 1) -> list[str]:
    """The words of a text, in its order; of unspaced scripts the pairs of characters.

    Parameters
        shortest: fewer characters are no word, where words have spaces between them; 1 or 2.
    """
    find = _SPACED[shortest].findall
    pieces = _RUNS.split(text)
    if len(pieces) == 1:
        return find(text)
    words: list[str] = []
    for place, piece in enumerate(pieces):
        words += _pairs(piece) if place % 2 else find(piece)
    return words


def bm25_tokens(texts: Sequence[str], *, shortest: int = 1) -> list[list[str]]:
    """Each text's words in lower case, without English stop words: what BM25 counts."""
    return [_without_stop_words(words_of(text.lower(), shortest=shortest)) for text in texts]


def _without_stop_words(words: Iterable[str]) -> list[str]:
    return [word for word in words if word not in _STOP_WORDS]


def _pairs(run: str) -> list[str]:
    return [run] if len(run) == 1 else [run[start : start + 2] for start in range(len(run) - 1)]


logger = logging.getLogger(__name__)

VERSION = f"bm25s-{importlib.metadata.version('bm25s')}"
DESCRIPTION = "bm25s lucene k1=1.5 b=0.75, English stop words, no stemming, bigrams in scripts without spaces"
SHORTEST_WORD = 2

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it reports every index it builds


def index_texts(texts: Iterable[str], *, shortest: int = 1) -> Any:
    """A retriever of bm25s over texts, or None if not one has a word: it cannot index those.

    Words become numbers at once, 4 bytes each: as texts they would take many times the room of the texts.
    """
    numbers: dict[str, int] = {}
    found = [
        array("i", [numbers.setdefault(word, len(numbers)) for word in words])
        for text in texts
        for words in bm25_tokens([text], shortest=shortest)
    ]
    if not numbers:
        return None
    retriever = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    retriever.index((found, numbers), show_progress=False)
    return retriever


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
        return cls(index_texts(passages, shortest=SHORTEST_WORD), len(passages))

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
