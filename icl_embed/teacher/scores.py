"""Teacher scores: the pairs that are scored, known by their texts' ids, and their format on disk.

A pair is known by the pool's ids of its two texts, so it has one score in whatever row, data set or position
it stands, and scores can be joined to rows that were built again.

Order means nothing: readers join by id. ``teacher.json`` beside the shards says who scored, which kinds of
tasks, and how many pairs in which files, so that a lost shard is noticed. A table is checked whole before a
score of it is used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from icl_embed.config import CountOrZero, Kind, Section
from icl_embed.errors import DataError
from icl_embed.store.files import inside, write_atomically
from icl_embed.texts import ID_LENGTH, text_id

Pair = tuple[str, str]  # query, passage
Keys = NDArray[np.bytes_]  # ids of query and passage, one after the other

KEY_DTYPE = f"S{2 * ID_LENGTH}"
COLUMNS = ("kind", "query", "positive", "negatives")
BATCH_ROWS = 8192


def keys_of(pairs: Sequence[Pair]) -> Keys:
    """The keys [N] of pairs; a text that several pairs share is hashed once."""
    ids = {text: text_id(text) for pair in pairs for text in pair}
    return np.array([ids[query] + ids[passage] for query, passage in pairs], KEY_DTYPE)


def row_pairs(query: str, positive: str, negatives: Sequence[str]) -> list[Pair]:
    """The pairs of one training row, the positive's first; blank negatives are nothing to score."""
    passages = dict.fromkeys((positive, *(text for text in negatives if text.strip())))
    return [(query, passage) for passage in passages]


def read_row_pairs(rows_path: Path, kinds: Collection[str]) -> Iterator[list[Pair]]:
    """The pairs of every row of ``train.parquet`` whose task is of one of the kinds, in file order.

    Raises
        DataError: the file is missing or damaged, or lacks a column.
    """
    try:
        with pq.ParquetFile(rows_path, pre_buffer=False) as parquet:
            missing = [name for name in COLUMNS if name not in parquet.schema_arrow.names]
            if missing:
                raise DataError(f"{rows_path}: expected the columns {list(COLUMNS)}, missing are {missing}")
            for batch in parquet.iter_batches(BATCH_ROWS, columns=list(COLUMNS)):
                for row in batch.to_pylist():
                    if row["kind"] in kinds:
                        yield row_pairs(row["query"], row["positive"], row["negatives"] or ())
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{rows_path} cannot be read: {error}; mine the negatives again") from error


def distinct_pairs(rows_path: Path, kinds: Collection[str]) -> Iterator[Pair]:
    """Every pair once, where it first appears. Needs about 120 bytes of memory per pair, whatever its length.

    Raises
        DataError: as ``read_row_pairs``.
    """
    seen: set[bytes] = set()
    for pairs in read_row_pairs(rows_path, kinds):
        for pair, key in zip(pairs, keys_of(pairs).tolist(), strict=True):
            if key not in seen:
                seen.add(key)
                yield pair


ABOUT_NAME = "teacher.json"
SHARD_NAME = "scores-{:05d}.parquet"
SCHEMA = pa.schema(
    {"query_id": pa.string(), "passage_id": pa.string(), "teacher": pa.string(), "score": pa.float32()}
)
AGAIN = "score the pairs again with this teacher"

Scores = NDArray[np.float32]


class TeacherTable(Section):
    """The content of ``teacher.json``: what the shards beside it hold."""

    teacher: str = Field(min_length=1)
    kinds: tuple[Kind, ...]
    pairs: CountOrZero
    shards: tuple[str, ...]


@dataclass(frozen=True)
class TeacherScores:
    """A whole table in memory: 36 bytes per pair, found by bisection.

    Attributes
        teacher: who scored.
        kinds: the kinds of tasks whose training pairs were scored, all of them.
    """

    teacher: str
    kinds: frozenset[str]
    _keys: Keys  # ascending, each once
    _scores: Scores

    def __len__(self) -> int:
        return len(self._keys)

    def join(self, keys: Keys) -> Scores:
        """The scores [N] of all pairs of a training set, which may repeat.

        Raises
            DataError: as ``ScoreJoin``.
        """
        joined = ScoreJoin(self)
        found = joined.take(keys)
        joined.finish()
        return found


class ScoreJoin:
    """The scores of pairs that come piece by piece; a byte of memory per score."""

    def __init__(self, scores: TeacherScores) -> None:
        """Nothing was taken yet."""
        self._table = scores
        self._used = np.zeros(len(scores), bool)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of tasks whose pairs have scores."""
        return self._table.kinds

    def take(self, keys: Keys) -> Scores:
        """The scores [N] of some pairs, which may repeat.

        Raises
            DataError: a pair has no score.
        """
        table = self._table
        spots = np.searchsorted(table._keys, keys)
        found = spots < len(table)
        found[found] = table._keys[spots[found]] == keys[found]
        if not found.all():
            raise DataError(
                f"{table.teacher} gave no score to {_named(keys[~found])} ({int((~found).sum())} of "
                f"{len(keys)} pairs); the scores are of other rows: {AGAIN}"
            )
        self._used[spots] = True
        scores: Scores = table._scores[spots]
        return scores

    def finish(self) -> None:
        """Say that there are no more pairs.

        Raises
            DataError: a score belongs to none of them.
        """
        if not self._used.all():
            table, left = self._table, ~self._used
            raise DataError(
                f"{table.teacher} scored {_named(table._keys[left])}, which is no training pair "
                f"({int(left.sum())} of {len(table)} scores); the scores are of other rows: {AGAIN}"
            )


def write_shard(path: Path, teacher: str, keys: Keys, scores: Scores) -> None:
    """Write the scores [N] of some pairs as a file that is whole or not there.

    Raises
        StoreError: the disk refused.
    """
    text = keys.astype(f"U{2 * ID_LENGTH}").tolist()
    columns = {
        "query_id": [key[:ID_LENGTH] for key in text],
        "passage_id": [key[ID_LENGTH:] for key in text],
        "teacher": [teacher] * len(text),
        "score": np.asarray(scores, np.float32),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=SCHEMA), sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())


def read_shard(path: Path) -> tuple[str, Keys, Scores]:
    """Teacher, keys [N] and scores [N] of a shard.

    Raises
        DataError: unreadable, another schema, no rows, several teachers, a malformed id, or a score that is
            missing or not finite.
    """
    try:
        table = pq.read_table(path, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}; {AGAIN}") from error
    if table.schema.names != SCHEMA.names or not table.schema.remove_metadata().equals(SCHEMA):
        raise DataError(f"{path}: expected the columns {SCHEMA.to_string()!r}, found {table.schema}; {AGAIN}")
    teachers = pc.unique(table.column("teacher")).to_pylist()
    if len(teachers) != 1 or not teachers[0]:
        raise DataError(f"{path}: expected the scores of one teacher, found {teachers}; {AGAIN}")
    for name in ("query_id", "passage_id"):
        fits = pc.match_substring_regex(table.column(name), f"^[0-9a-f]{{{ID_LENGTH}}}$")
        _refuse_rows(path, pc.invert(pc.fill_null(fits, False)), f"{name} is no id of {ID_LENGTH} hex digits")
    finite = pc.fill_null(pc.is_finite(table.column("score")), False)
    _refuse_rows(path, pc.invert(finite), "the score is missing, NaN or infinite")
    joined = pc.binary_join_element_wise(table.column("query_id"), table.column("passage_id"), "")
    keys = np.array(joined.to_pylist(), KEY_DTYPE)
    return teachers[0], keys, table.column("score").to_numpy().astype(np.float32)


def write_about(folder: Path, about: TeacherTable) -> None:
    """Write ``teacher.json``.

    Raises
        StoreError: the disk refused.
    """
    write_atomically(folder / ABOUT_NAME, about.model_dump_json(indent=1).encode())


def read_teacher_scores(folder: Path) -> TeacherScores:
    """Read and check a whole table.

    Raises
        DataError: a file is missing or damaged, the scores of two teachers are mixed, a pair is scored twice,
            a score is not finite, or there are not as many as were written.
        StoreError: ``teacher.json`` names a file outside the folder.
    """
    about = _read_about(folder)
    shards = [read_shard(inside(folder, name)) for name in about.shards]
    strangers = sorted({teacher for teacher, _, _ in shards} - {about.teacher})
    if strangers:
        raise DataError(
            f"{folder}: expected scores of {about.teacher}, found some of {strangers[0]}; {AGAIN}"
        )
    keys = np.concatenate([np.empty(0, KEY_DTYPE), *(keys for _, keys, _ in shards)])
    scores = np.concatenate([np.empty(0, np.float32), *(scores for _, _, scores in shards)])
    order = np.argsort(keys, kind="stable")
    keys, scores = keys[order], scores[order]
    repeated = keys[1:][keys[1:] == keys[:-1]]
    if len(repeated):
        raise DataError(
            f"{folder}: {_named(repeated)} has two scores (and {len(repeated) - 1} pairs more); {AGAIN}"
        )
    if len(keys) != about.pairs:
        raise DataError(f"{folder}: expected {about.pairs} scored pairs, found {len(keys)}; {AGAIN}")
    return TeacherScores(about.teacher, frozenset(about.kinds), keys, scores)


def _read_about(folder: Path) -> TeacherTable:
    path = folder / ABOUT_NAME
    try:
        return TeacherTable.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{folder} has no {ABOUT_NAME}; it holds no teacher scores. {AGAIN}") from error
    except (OSError, ValidationError) as error:
        raise DataError(f"{path} is not valid: {error}; {AGAIN}") from error


def _refuse_rows(path: Path, wrong: pa.ChunkedArray, what: str) -> None:
    rows = np.flatnonzero(wrong.to_numpy())
    if len(rows):
        raise DataError(f"{path}, row {rows[0]}: {what} ({len(rows)} of {len(wrong)} rows); {AGAIN}")


def _named(keys: Keys | Sequence[bytes]) -> str:
    text = keys[0].decode()
    return f"query {text[:ID_LENGTH]} with passage {text[ID_LENGTH:]}"
