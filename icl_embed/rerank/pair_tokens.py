r"""A (query, passage) pair as token ids.

The string is the paper's (appendix D): ``A: {query}\nB: {passage}\n{prompt}``. Or the prompt goes first,
``{prompt}\nA: {query}\nB: {passage}\n``: then it is computed once per query, with all that precedes the
passage, and every candidate is shorter by its length. Segments are tokenised on their own, so all that
precedes the passage is the same for every candidate of a query, and the passage's tokens, the only ones that
compression may touch, are known exactly. Truncation cuts the query to three quarters of the room, then the
passage; the prompt is never cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icl_embed.config import PAIR_PROMPTS, PromptConfig, PromptPlace
from icl_embed.errors import ConfigError, DataError
from icl_embed.prompts import PromptBuilder, Tokens

CONTAINS_ANSWER = PAIR_PROMPTS["answer"]

MAX_QUERY_SHARE = 0.75

Pair = tuple[str, str]


@dataclass(frozen=True)
class PairTokens:
    """One pair: the query with all that precedes the passage, the passage, what follows it."""

    query: Tokens
    passage: Tokens
    after: Tokens

    def __len__(self) -> int:
        return len(self.query) + len(self.passage) + len(self.after)


class PairBuilder:
    """Builds pairs for one tokenizer and length limit, with the prompt after the texts or before them."""

    def __init__(
        self, tokenizer: Any, max_tokens: int, prompt: str, prompt_place: PromptPlace = "after"
    ) -> None:
        self._text = PromptBuilder(tokenizer, PromptConfig())
        head, separator, between, sentence = self._text.tokenize(["A:", "\n", "B:", prompt])
        is_first = prompt_place == "before"
        self._before = self._text.bos + (sentence + separator if is_first else []) + head
        self._between = separator + between
        self._after: Tokens = separator + ([] if is_first else sentence)
        self._room = max_tokens - len(self._before) - len(self._between) - len(self._after)
        if self._room < 4:
            raise ConfigError(
                f"max_tokens is {max_tokens}, but the prompt alone takes {max_tokens - self._room}; "
                "raise rerank.max_tokens"
            )

    def queries(self, queries: Sequence[str]) -> list[Tokens]:
        """Everything before the passage, for each query.

        Raises
            DataError: a query is empty.
        """
        for number, query in enumerate(queries):
            if not query.strip():
                raise DataError(f"query {number} of {len(queries)} is empty; there is nothing to score")
        longest = int(self._room * MAX_QUERY_SHARE)
        texts = self._text.tokenize([" " + query for query in queries])
        return [self._before + text[:longest] + self._between for text in texts]

    def pairs(self, pairs: Sequence[Pair]) -> list[PairTokens]:
        """Tokens of (query, passage) pairs; each distinct text is tokenised once.

        Raises
            DataError: a query is empty.
        """
        queries = list(dict.fromkeys(query for query, _ in pairs))
        passages = list(dict.fromkeys(passage for _, passage in pairs))
        before = dict(zip(queries, self.queries(queries), strict=True))
        texts = dict(zip(passages, self._text.tokenize([" " + text for text in passages]), strict=True))
        fixed = len(self._before) + len(self._between)
        return [
            PairTokens(
                before[query],
                texts[passage][: self._room - (len(before[query]) - fixed)],
                self._after,
            )
            for query, passage in pairs
        ]


def distinct_pairs(pairs: Sequence[Pair]) -> tuple[list[Pair], list[int]]:
    """The different pairs in order of appearance, and for each pair its place among them.

    Raises
        DataError: an item is not a pair of texts.
    """
    places: dict[Pair, int] = {}
    place_of = []
    for number, pair in enumerate(pairs):
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not is_pair or not all(isinstance(text, str) for text in pair):
            raise DataError(f"pairs[{number}] must be (query, passage), two texts; found {str(pair)[:80]!r}")
        place_of.append(places.setdefault((pair[0], pair[1]), len(places)))
    return list(places), place_of
