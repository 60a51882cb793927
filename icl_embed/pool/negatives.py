"""Which candidates become hard negatives of a pair: what may never be one, which others are taken.

The selection keeps out what the data itself calls related, what nearly repeats a positive, and what scores
too close to it. What is missing is filled with random passages of the same data set.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from icl_embed.bm25 import words_of
from icl_embed.pool.candidates import Ranking

WORDS_KEPT = 32_768  # passages whose words are kept: some 150 MB
NEAR_DUPLICATE_WORDS = 0.8  # Jaccard of word sets above which two passages say the same


@dataclass(frozen=True)
class Candidates:
    """Passages of a data set as the selection sees them, by index.

    Attributes
        keys: match key per passage.
        labels: True if the passages are label texts, which are short and may well share words.
    """

    keys: Sequence[str]
    labels: bool = False
    _words: dict[int, frozenset[str]] = field(default_factory=dict)

    def words(self, index: int) -> frozenset[str]:
        """The distinct words of a passage, or the passage itself if it has none."""
        if index not in self._words:
            if len(self._words) >= WORDS_KEPT:
                self._words.clear()
            key = self.keys[index]
            self._words[index] = frozenset(words_of(key) or [key])
        return self._words[index]


@dataclass(frozen=True)
class Row:
    """One (query, positive) pair that needs negatives.

    Attributes
        pair_id: seeds the random padding.
        query_key: match key of the query.
        positive: index of its positive among the passages.
        related: indices of every passage that the data relates to the query, its positives among them.
        given: indices of negatives it already has.
    """

    pair_id: str
    query_key: str
    positive: int
    related: frozenset[int]
    given: frozenset[int]


@dataclass
class Tally:
    """What happened to the candidates of a data set."""

    seen: int = 0
    ceiling_skipped: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)


def select_negatives(
    row: Row,
    ranked: Mapping[str, tuple[Ranking, int, int]],
    candidates: Candidates,
    *,
    wanted: int,
    window: tuple[int, int],
    max_positive_ratio: float | None,
    tally: Tally,
    sample_seed: int | None = None,
) -> list[int]:
    """Take negatives from the methods in turn, best first, until there are enough or none is left.

    Parameters
        ranked: method -> (its ranking, row of the query in it, index of the pair's positive score).
        wanted: how many are missing.
        window: first rank that may be taken, and the rank before which to stop; 0 is the best.
        max_positive_ratio: candidates above this fraction of the positive's score, by the same method, are
            probably answers too (NV-Retriever, arXiv 2407.15831). None: no ceiling. A positive with score 0
            or less gives no measure; the ceiling is then skipped, and counted.
        sample_seed: draw from all that may be taken, instead of taking the best.
    """
    streams = [
        _stream(name, *place, window=window, ratio=max_positive_ratio, tally=tally)
        for name, place in ranked.items()
    ]
    taken: dict[int, str] = {}
    refused: set[int] = set()
    for name, index, below_ceiling in _in_turn(streams):
        if len(taken) >= wanted and sample_seed is None:
            break
        if index in refused or index in taken:
            continue
        tally.seen += 1
        reason = forbidden(index, row, candidates) or ("" if below_ceiling else "above_ceiling")
        if reason:
            tally.dropped[reason] += 1
            # above one method's ceiling is above suspicion for none: the other may not bring it back
            refused.add(index)
            continue
        taken[index] = name
    chosen = list(taken)
    if len(chosen) > wanted:
        chosen = random.Random(f"{sample_seed}:{row.pair_id}:sample").sample(chosen, wanted)
    tally.kept.update(taken[index] for index in chosen)
    return chosen


def pad_at_random(
    row: Row, taken: Sequence[int], candidates: Candidates, *, wanted: int, seed: int, tally: Tally
) -> list[int]:
    """Random passages of the data set for what mining could not fill, a pure function of seed and row."""
    rng = random.Random(f"{seed}:{row.pair_id}")
    num_passages = len(candidates.keys)
    draws = rng.sample(range(num_passages), min(num_passages, 4 * wanted + 16))
    padding: list[int] = []
    for index in draws:
        if len(padding) >= wanted:
            break
        if index not in taken and not forbidden(index, row, candidates):
            padding.append(index)
    tally.kept["random"] += len(padding)
    return padding


def forbidden(index: int, row: Row, candidates: Candidates) -> str:
    """Why a passage can never be a negative of the row; empty if it can."""
    if index == row.positive:
        return "same_label" if candidates.labels else "same_as_positive"
    if candidates.keys[index] == row.query_key:
        return "same_as_query"
    if index in row.given:
        return "already_given"
    if index in row.related:
        return "other_positive"
    if not candidates.labels and _repeats(index, {row.positive, *row.related}, candidates):
        return "near_duplicate_of_positive"
    return ""


def _repeats(index: int, positives: Iterable[int], candidates: Candidates) -> bool:
    words = candidates.words(index)
    for positive in positives:
        others = candidates.words(positive)
        shared = len(words & others)
        if shared > NEAR_DUPLICATE_WORDS * (len(words) + len(others) - shared):
            return True
    return False


def _stream(
    name: str,
    ranking: Ranking,
    query: int,
    pair: int,
    *,
    window: tuple[int, int],
    ratio: float | None,
    tally: Tally,
) -> Iterator[tuple[str, int, bool]]:
    ceiling = np.inf
    if ratio is not None:
        positive_score = float(ranking.positive_scores[pair])
        if np.isfinite(positive_score) and positive_score > 0:
            ceiling = ratio * positive_score
        else:
            tally.ceiling_skipped += 1
    for rank in range(window[0], min(window[1], ranking.passages.shape[1])):
        index = int(ranking.passages[query, rank])
        if index < 0:
            return
        yield name, index, float(ranking.scores[query, rank]) <= ceiling


def _in_turn(streams: Sequence[Iterator[tuple[str, int, bool]]]) -> Iterator[tuple[str, int, bool]]:
    waiting = list(streams)
    while waiting:
        for stream in list(waiting):
            found = next(stream, None)
            if found is None:
                waiting.remove(stream)
            else:
                yield found
