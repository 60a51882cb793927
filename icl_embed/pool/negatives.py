"""Hard negatives for every training pair of a pool: what may never be one, which others are taken.

Candidates come from BM25 and, on request, from an embedder; the selection keeps out what the data itself
calls related, what nearly repeats a positive, and what scores too close to it. For label kinds the candidates
are the other labels, hardest first. What is missing is filled with random passages of the same data set.
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from icl_embed.bm25 import words_of
from icl_embed.config import NegativesConfig
from icl_embed.errors import ConfigError
from icl_embed.pool.candidates import (
    Bm25Scorer,
    DenseScorer,
    Embed,
    LabelScorer,
    Ranking,
    Scorer,
    Task,
    dataset_names,
    keys_of,
    load_task,
    rank_candidates,
)
from icl_embed.pool.export import EXPORTS, ROW_GROUP_ROWS
from icl_embed.pool.pages import Progress

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
) -> list[int]:
    """Take negatives from the methods in turn, best first, until there are enough or none is left.

    Parameters
        ranked: method -> (its ranking, row of the query in it, index of the pair's positive score).
        wanted: how many are missing.
        window: first rank that may be taken, and the rank before which to stop; 0 is the best.
        max_positive_ratio: candidates above this fraction of the positive's score, by the same method, are
            probably answers too (NV-Retriever, arXiv 2407.15831). None: no ceiling. A positive with score 0
            or less gives no measure; the ceiling is then skipped, and counted.
    """
    streams = [
        _stream(name, *place, window=window, ratio=max_positive_ratio, tally=tally)
        for name, place in ranked.items()
    ]
    taken: list[int] = []
    refused: set[int] = set()
    for name, index, below_ceiling in _in_turn(streams):
        if len(taken) >= wanted:
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
        tally.kept[name] += 1
        taken.append(index)
    return taken


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


logger = logging.getLogger(__name__)

MAX_LABELLED_TEXTS = 20_000  # texts that stand for the labels of a data set
SPARE_LABELS = 8  # ranked beyond the labels asked for: the own one, given ones, one that equals the query


def mine_negatives(
    pool_dir: Path,
    out_dir: Path,
    config: NegativesConfig,
    *,
    seed: int,
    embed: Embed | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write ``train.parquet`` with filled negatives, and ``mining.json`` with what happened to candidates.

    Negatives that the source gives come first and are all kept; mined ones fill the list up to
    ``config.per_query``. Where negatives have teacher scores, a mined one's score is null.

    Parameters
        embed: (texts, instruction or None for passages) -> [N, D]; needed for the method ``dense``.

    Returns
        counts per data set, the content of ``mining.json``.

    Raises
        ConfigError: ``dense`` without ``embed``, or an empty rank window.
        PoolError: the pool is missing or damaged, or vectors are unusable.
    """
    if config.rank_from >= config.rank_to:
        raise ConfigError(
            f"negatives.rank_from ({config.rank_from}) must be below rank_to ({config.rank_to})"
        )
    if "dense" in config.methods and embed is None:
        raise ConfigError(
            "negatives.methods names dense, which needs an embedder; give one, or use bm25 only"
        )
    names = dataset_names(pool_dir)
    counts: dict[str, Any] = {}
    with pq.ParquetWriter(out_dir / "train.parquet", EXPORTS["train"], compression="zstd") as writer:
        for done, name in enumerate(names):
            if progress:
                progress("mining negatives", done, len(names))
            task = load_task(pool_dir, name)
            table, counts[name] = mine_task(task, config, seed=seed, embed=embed)
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    text = json.dumps(counts, indent=1, ensure_ascii=False, allow_nan=False)
    (out_dir / "mining.json").write_text(text + "\n", encoding="utf-8")
    return counts


def mine_task(
    task: Task, config: NegativesConfig, *, seed: int, embed: Embed | None
) -> tuple[pa.Table, dict[str, Any]]:
    """Negatives of one data set: (its rows in their original order, counts)."""
    rankings: dict[str, Ranking] = {
        name: _rank(task, name, config, embed) for name in config.methods if config.per_query
    }
    _warn_of_silence(task, rankings)
    candidates = Candidates(task.passage_keys, labels=task.has_labels)
    tally, padded, fewer = Tally(), 0, 0
    index_of = {key: index for index, key in enumerate(task.passage_keys)}
    given_lists: list[list[str]] = task.table.column("negatives").to_pylist()
    mined: list[list[str]] = []
    for pair, row in enumerate(_rows(task, given_lists, index_of)):
        wanted = max(0, config.per_query - len(given_lists[pair]))
        taken = select_negatives(
            row,
            {name: (ranking, int(task.pair_query[pair]), pair) for name, ranking in rankings.items()},
            candidates,
            wanted=wanted,
            # every other label is a true negative: nothing to skip, nothing too good
            window=(0, len(task.passages)) if task.has_labels else (config.rank_from, config.rank_to),
            max_positive_ratio=None if task.has_labels else config.max_positive_ratio,
            tally=tally,
        )
        missing = wanted - len(taken)
        padding = (
            pad_at_random(row, taken, candidates, wanted=missing, seed=seed, tally=tally) if missing else []
        )
        padded += bool(padding)
        fewer += len(padding) < missing
        mined.append([task.passages[index] for index in (*taken, *padding)])
    if fewer:
        logger.warning("data set %s: %d rows have fewer negatives than asked for", task.name, fewer)
    if tally.kept["random"] > sum(map(len, mined)) / 2:
        logger.warning(
            "data set %s: %d of %d mined negatives are drawn at random, as no candidates were left: easy "
            "ones teach little; negatives.methods and negatives.rank_from say where candidates come from",
            task.name,
            tally.kept["random"],
            sum(map(len, mined)),
        )
    tally.dropped["non_finite"] += sum(ranking.num_non_finite for ranking in rankings.values())
    tally.kept["given"] += sum(map(len, given_lists))
    counts = {
        "kind": task.kind,
        "rows": task.table.num_rows,
        "passages": len(task.passages),
        "candidates_seen": tally.seen,
        "dropped": dict(sorted(tally.dropped.items())),
        "ceiling_skipped": tally.ceiling_skipped,
        "kept": dict(sorted(tally.kept.items())),
        "rows_padded": padded,
        "rows_with_fewer": fewer,
    }
    return _with_negatives(task.table, given_lists, mined), counts


def _warn_of_silence(task: Task, rankings: Mapping[str, Ranking]) -> None:
    """Say for how many queries a method has no candidate at all: their negatives are random."""
    for method, ranking in rankings.items():
        silent = int((ranking.passages[:, 0] < 0).sum()) if ranking.passages.shape[1] else 0
        if silent:
            logger.warning(
                "data set %s: %s has no candidate for %d of %d queries (no word in common with any passage); "
                "what other methods do not find for them is drawn at random",
                task.name,
                method,
                silent,
                len(task.queries),
            )


def _rank(task: Task, method: str, config: NegativesConfig, embed: Embed | None) -> Ranking:
    scorer: Scorer
    if not task.has_labels:
        scorer = _scorer(task, method, task.passages, None, embed)
        depth, width = config.rank_to, len(task.passages)
    else:
        # Labels of repeated queries were settled when the pool was built: one row per query.
        labelled = np.arange(len(task.queries))[:: -(-len(task.queries) // MAX_LABELLED_TEXTS)]
        texts = [task.queries[index] for index in labelled]
        by_text = _scorer(task, method, texts, task.instruction, embed)
        scorer = LabelScorer(by_text, task.pair_positive[labelled], len(task.passages))
        depth, width = config.per_query + SPARE_LABELS, len(texts)
    return rank_candidates(
        scorer,
        depth=depth,
        pair_query=task.pair_query,
        pair_positive=task.pair_positive,
        block_passages=width,
    )


def _scorer(
    task: Task, method: str, texts: list[str], instruction: str | None, embed: Embed | None
) -> Scorer:
    if method == "bm25" or embed is None:
        return Bm25Scorer(task.queries, texts)
    return DenseScorer(embed(task.queries, task.instruction), embed(texts, instruction))


def _rows(task: Task, given_lists: list[list[str]], index_of: Mapping[str, int]) -> Iterator[Row]:
    for pair, (pair_id, given) in enumerate(
        zip(task.table.column("pair_id").to_pylist(), given_lists, strict=True)
    ):
        query_key = task.query_keys[task.pair_query[pair]]
        given_keys = keys_of(given) if given else []
        yield Row(
            pair_id=pair_id,
            query_key=query_key,
            positive=int(task.pair_positive[pair]),
            related=task.related.get(query_key, frozenset()),
            given=frozenset(index_of[key] for key in given_keys if key in index_of),
        )


def _with_negatives(table: pa.Table, given: list[list[str]], mined: list[list[str]]) -> pa.Table:
    negatives = [[*first, *rest] for first, rest in zip(given, mined, strict=True)]
    scores = [
        None if known is None else [*known, *[None] * len(rest)]
        for known, rest in zip(table.column("negative_scores").to_pylist(), mined, strict=True)
    ]
    for name, values in (("negatives", negatives), ("negative_scores", scores)):
        field = EXPORTS["train"].field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table.sort_by("pair_id").cast(EXPORTS["train"]).combine_chunks()
