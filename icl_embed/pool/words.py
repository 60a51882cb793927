"""Texts as words, for all that compares by words: BM25's candidates, baseline and nearest examples.

Most scripts set spaces between words. Chinese, Japanese, Thai, Lao, Khmer, Myanmar and a few of their
neighbours do not: a sentence of theirs would be one word that no other text has. A run of such characters is
therefore taken as its overlapping pairs (as Lucene takes them); one that stands alone is a word. Everything
else is split exactly as bm25s and scikit-learn split it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bm25s.stopwords import STOPWORDS_EN

VERSION = 2  # raise it when a text gives other words; 1 knew no scripts without spaces

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

    Takes
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
