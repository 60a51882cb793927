"""Hard negatives for every training pair of a pool, in bounded memory, resumable.

Candidates come from BM25 and, on request, from an embedder. For label kinds the candidates are the other
labels, hardest first. Queries are ranked in shards; a finished shard is kept in the scratch folder. What is
held of all rows are numbers; their texts pass through in batches.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from icl_embed.config import NegativesConfig
from icl_embed.errors import ConfigError
from icl_embed.pool.candidates import (
    Bm25Scorer,
    ByScores,
    ByVectors,
    DenseScorer,
    Embed,
    LabelScorer,
    Ranker,
    Ranking,
    Scorer,
    Search,
    exact_search,
    kept_ranking,
)
from icl_embed.pool.export import EXPORTS
from icl_embed.pool.mining_task import Positions, Task, Texts, dataset_names, load_task, read_batches
from icl_embed.pool.negatives import Candidates, Row, Tally, pad_at_random, select_negatives
from icl_embed.progress import tell

logger = logging.getLogger(__name__)

MAX_LABELLED_TEXTS = 20_000  # texts that stand for the labels of a data set
SPARE_LABELS = 8  # ranked beyond the labels asked for: the own one, given ones, one that equals the query
WRITTEN_ROWS = 16_384  # of train.parquet, at once


@dataclass(frozen=True)
class Miner:
    """How negatives are mined.

    Attributes
        embed: (texts, instruction or None for passages) -> [N, D]; needed for the method ``dense``.
        search: how the vectors of passages are searched.
        work_dir: where finished shards survive a crash; None keeps none.
        identity: what decides a shard besides data set and config.
        sample: take negatives at random from the window, not its best.
    """

    config: NegativesConfig
    seed: int
    embed: Embed | None = None
    search: Search = exact_search
    work_dir: Path | None = None
    identity: str = ""
    sample: bool = False

    def __post_init__(self) -> None:
        if self.config.rank_from >= self.config.rank_to:
            raise ConfigError(
                f"negatives.rank_from ({self.config.rank_from}) must be below rank_to ({self.config.rank_to})"
            )
        if "dense" in self.config.methods and self.embed is None:
            raise ConfigError(
                "negatives.methods names dense, which needs an embedder; give one, or use bm25 only"
            )

    def wanted(self, task: Task) -> Positions:
        """How many negatives each row of the file lacks."""
        return np.maximum(0, self.config.per_query - task.num_given)

    def shards(self, task: Task) -> Iterator[tuple[range, dict[str, Ranking]]]:
        """The queries of each shard with their rankings by method."""
        methods = self.config.methods if self.config.per_query else ()
        rankers: dict[str, Ranker] = {}
        step, total = self.config.shard_queries, len(task.queries)
        for first in range(0, total, step):
            tell(f"mining {task.name}", first, total)
            queries = range(first, min(first + step, total))
            yield queries, {name: self._ranking(task, name, queries, rankers) for name in methods}

    def _ranking(self, task: Task, method: str, queries: range, rankers: dict[str, Ranker]) -> Ranking:
        """Kept, or made by a ranker that is made when it is first needed."""

        def rank() -> Ranking:
            if method not in rankers:
                rankers[method] = self._ranker(task, method)
            return rankers[method].rank(task, queries.start, queries.stop)

        name = f"{task.name}-{method}-{queries.start:09d}.ranking"
        settings = self.config.model_dump(mode="json", exclude={"shard_queries"})
        about = [self.identity, task.name, method, settings, queries.stop, len(task.passages)]
        return kept_ranking(self.work_dir / name if self.work_dir else None, json.dumps(about), rank)

    def _ranker(self, task: Task, method: str) -> Ranker:
        if not task.has_labels:
            if method == "bm25" or self.embed is None:
                return ByScores(Bm25Scorer(task.queries, task.passages), self.config.rank_to)
            return ByVectors(
                self.embed(task.queries, task.instruction),
                self.embed(task.passages, None),
                depth=self.config.rank_to,
                search=self.search,
            )
        # Labels of repeated queries were settled when the pool was built: one row per query.
        labelled = np.arange(len(task.queries))[:: -(-len(task.queries) // MAX_LABELLED_TEXTS)]
        texts = [task.queries[index] for index in labelled]
        by_text: Scorer
        if method == "bm25" or self.embed is None:
            by_text = Bm25Scorer(task.queries, texts)
        else:
            by_text = DenseScorer(
                self.embed(task.queries, task.instruction), self.embed(texts, task.instruction)
            )
        scorer = LabelScorer(by_text, task.pair_positive[labelled], len(task.passages))
        return ByScores(scorer, self.config.per_query + SPARE_LABELS, len(texts))

    def mine(self, task: Task) -> tuple[NDArray[np.int32], dict[str, Any]]:
        """Positions of mined negatives by row of the file [rows, per_query], -1 beyond them; and counts."""
        candidates = Candidates(task.passage_keys, labels=task.has_labels)
        wanted = self.wanted(task)
        mined = np.full((len(wanted), self.config.per_query), -1, np.int32)
        tally, padded, fewer = Tally(), 0, 0
        silent: dict[str, int] = {}
        for queries, rankings in self.shards(task):
            for name, ranking in rankings.items():
                width = ranking.passages.shape[1]
                silent[name] = silent.get(name, 0) + int((ranking.passages[:, :1] < 0).sum() if width else 0)
            pairs = task.pairs_of(queries.start, queries.stop)
            for pair in pairs:
                row = _row(task, pair)
                missing = int(wanted[task.pair_row[pair]])
                place = int(task.pair_query[pair]) - queries.start, pair - pairs.start
                taken = self._select(row, rankings, place, candidates, missing, tally)
                missing -= len(taken)
                padding = (
                    pad_at_random(row, taken, candidates, wanted=missing, seed=self.seed, tally=tally)
                    if missing
                    else []
                )
                padded += bool(padding)
                fewer += len(padding) < missing
                mined[task.pair_row[pair], : len(taken) + len(padding)] = [*taken, *padding]
        num_mined = int((mined >= 0).sum())
        _warn(task, silent, fewer=fewer, num_random=tally.kept["random"], num_mined=num_mined)
        tally.kept["given"] += int(task.num_given.sum())
        return mined, {
            "kind": task.kind,
            "rows": len(wanted),
            "passages": len(task.passages),
            "candidates_seen": tally.seen,
            "dropped": dict(sorted(tally.dropped.items())),
            "ceiling_skipped": tally.ceiling_skipped,
            "kept": dict(sorted(tally.kept.items())),
            "rows_padded": padded,
            "rows_with_fewer": fewer,
        }

    def _select(
        self,
        row: Row,
        rankings: Mapping[str, Ranking],
        place: tuple[int, int],
        candidates: Candidates,
        wanted: int,
        tally: Tally,
    ) -> list[int]:
        config = self.config
        return select_negatives(
            row,
            {name: (ranking, *place) for name, ranking in rankings.items()},
            candidates,
            wanted=wanted,
            # every other label is a true negative: nothing to skip, nothing too good
            window=(0, len(candidates.keys)) if candidates.labels else (config.rank_from, config.rank_to),
            max_positive_ratio=None if candidates.labels else config.max_positive_ratio,
            sample_seed=self.seed if self.sample else None,
            tally=tally,
        )


def mine_negatives(pool_dir: Path, out_dir: Path, miner: Miner) -> dict[str, Any]:
    """Write ``train.parquet`` with filled negatives, and ``mining.json`` with what happened to candidates.

    Negatives that the source gives come first and are all kept; mined ones fill the list up to
    ``negatives.per_query``. Where negatives have teacher scores, a mined one's score is null.

    Returns
        counts per data set, the content of ``mining.json``.

    Raises
        ModelError: a vector is not finite.
        PoolError: the pool is missing or damaged, or vectors are of two widths.
    """
    counts: dict[str, Any] = {}
    columns = [name for name in EXPORTS["train"].names if name != "dataset"]
    with pq.ParquetWriter(out_dir / "train.parquet", EXPORTS["train"], compression="zstd") as writer:
        for name in dataset_names(pool_dir):
            task = load_task(pool_dir, name)
            mined, counts[name] = miner.mine(task)
            order = np.asarray(pc.sort_indices(task.pair_ids.column).to_numpy(), np.int64)
            for table, rows in in_order(read_batches(pool_dir, "train", name, ["dataset", *columns]), order):
                writer.write_table(_filled(table, mined[rows], task.passages))
    text = json.dumps(counts, indent=1, ensure_ascii=False, allow_nan=False)
    (out_dir / "mining.json").write_text(text + "\n", encoding="utf-8")
    return counts


def in_order(batches: Iterator[pa.Table], order: Positions) -> Iterator[tuple[pa.Table, Positions]]:
    """Rows in another order, and their numbers; no more are held than the new order asks for.

    Parameters
        batches: all rows, in the order of their numbers.
    """
    lowest = np.minimum.accumulate(order[::-1])[::-1]  # that is still to come, from each place on
    held: list[pa.Table] = []
    first = read = 0
    for start in range(0, len(order), WRITTEN_ROWS):
        rows = order[start : start + WRITTEN_ROWS]
        while read <= rows.max():
            held.append(next(batches))
            read += held[-1].num_rows
        table = pa.concat_tables(held)
        yield table.take(rows - first), rows
        stop = start + len(rows)
        keep = int(lowest[stop]) if stop < len(order) else read
        held, first = [table.slice(keep - first)], keep


def _filled(table: pa.Table, mined: NDArray[np.int32], passages: Texts) -> pa.Table:
    """Rows with the mined passages after their own negatives, in the types of the export."""
    num_mined = (mined >= 0).sum(axis=1)
    texts = passages.column.take(pa.array(mined[mined >= 0].astype(np.int64)))
    nulls = pa.nulls(len(texts), pa.float64())
    for name, more in (("negatives", texts), ("negative_scores", nulls)):
        place = table.schema.get_field_index(name)
        column = table.column(place).combine_chunks()
        field = EXPORTS["train"].field(name)
        table = table.set_column(place, field, _extended(column, more, num_mined, field.type))
    return table.select(EXPORTS["train"].names).cast(EXPORTS["train"]).combine_chunks()


def _extended(lists: pa.ListArray, more: pa.Array, counts: Positions, kind: pa.DataType) -> pa.ListArray:
    """Each list with so many of ``more`` after its own; a null stays one, and uses none of them up.

    Parameters
        counts: how many of ``more`` belong to each list; they lie in a row.
    """
    known = lists.is_valid().to_numpy(zero_copy_only=False)
    own = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    added = np.where(known, counts, 0)
    ends = np.cumsum(own + added)
    starts = np.concatenate([[0], ends])
    values = pa.concat_arrays([lists.flatten().cast(kind.value_type), more.cast(kind.value_type)])
    sources = np.empty(int(starts[-1]), np.int64)
    sources[_runs(starts[:-1], own)] = np.arange(own.sum())
    sources[_runs(starts[:-1] + own, added)] = own.sum() + _runs(np.cumsum(counts) - counts, added)
    return pa.ListArray.from_arrays(
        pa.array(starts, pa.int32()), values.take(pa.array(sources)), mask=pa.array(~known)
    )


def _runs(starts: Positions, lengths: Positions) -> Positions:
    """start, start + 1, … of each run, one run after the other."""
    before = np.cumsum(lengths) - lengths
    runs: Positions = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
    return runs


def _row(task: Task, pair: int) -> Row:
    query = int(task.pair_query[pair])
    row = int(task.pair_row[pair])
    return Row(
        pair_id=task.pair_ids[row],
        query_key=task.query_keys[query],
        positive=int(task.pair_positive[pair]),
        related=frozenset(task.related.of(int(task.key_of_query[query])).tolist()),
        given=frozenset(task.given.of(row).tolist()),
    )


def _warn(task: Task, silent: Mapping[str, int], *, fewer: int, num_random: int, num_mined: int) -> None:
    """Say where negatives are fewer than asked for, or easy."""
    for method, count in silent.items():
        if count:
            logger.warning(
                "data set %s: %s has no candidate for %d of %d queries (no word in common with any passage); "
                "what other methods do not find for them is drawn at random",
                task.name,
                method,
                count,
                len(task.queries),
            )
    if fewer:
        logger.warning("data set %s: %d rows have fewer negatives than asked for", task.name, fewer)
    if num_random > num_mined / 2:
        logger.warning(
            "data set %s: %d of %d mined negatives are drawn at random, as no candidates were left: easy "
            "ones teach little; negatives.methods and negatives.rank_from say where candidates come from",
            task.name,
            num_random,
            num_mined,
        )
