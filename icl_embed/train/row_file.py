"""The training rows as a file that every process maps: a text stays on the disk until its row is asked for.

``train.parquet`` is compressed, and a row of it costs a row group. Before training it is copied once, batch
by batch, into an Arrow stream without compression in the job's work folder, beside the scores of a teacher.
Ranks and batch workers map that file. They share its pages, and what they hold of their own does not grow
with the rows, but for a few bytes each.

It is the format of ``datasets``' own cache: ``datasets.Dataset.from_file`` opens it. Here it is mapped
without the library, which takes 58 MB and a second more in every process, reads a row in 150 µs instead of
16, and cannot be told to let go of pages.
"""

from __future__ import annotations

import logging
import mmap
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError, model_validator

from icl_embed.config import Count, Kind, Section
from icl_embed.errors import StoreError, TrainingError
from icl_embed.launch.worker import beat
from icl_embed.store.files import partial_of, refusal, written_atomically
from icl_embed.teacher.scores import ScoreJoin, keys_of, read_teacher_scores, row_pairs

logger = logging.getLogger(__name__)

ROWS_NAME = "rows.arrow"
BATCH_ROWS = 2048
BATCHES_SEEN = 32  # before their pages are let go of
READ_BYTES = 1 << 20  # of a column's compressed pages at a time
SAY_EVERY_SECONDS = 10.0

ABOUT_SET = ["dataset", "kind", "instruction", "weight"]
TEXTS = ["query", "positive", "response"]
SCORES = ["positive_score", "negative_scores"]  # may be missing from the rows
SCHEMA = pa.schema(
    {
        **dict.fromkeys(TEXTS, pa.string()),
        "label": pa.string(),
        "negatives": pa.list_(pa.string()),
        "positive_score": pa.float64(),
        "negative_scores": pa.list_(pa.float64()),
        "has_negative": pa.bool_(),  # one that is neither blank nor the positive
    }
)
SPACES = "".join(filter(str.isspace, map(chr, range(0x3001))))  # all that str.strip takes away
KEY = b"icl_embed"
AGAIN = "build the negatives again"


class DataSetRows(Section):
    """A data set, and where its rows lie."""

    name: str
    kind: Kind
    instruction: str
    weight: float
    first: int
    count: Count


class AboutRows(Section):
    """What a mapped file says of itself: what it was made from, and the data sets in file order."""

    source: str
    data_sets: tuple[DataSetRows, ...]

    @model_validator(mode="after")
    def _one_after_the_other(self) -> AboutRows:
        ends = accumulate((one.count for one in self.data_sets), initial=0)
        if any(one.first != end for one, end in zip(self.data_sets, ends, strict=False)):
            raise ValueError("the data sets do not lie one after the other")
        return self

    @property
    def num_rows(self) -> int:
        """Rows of all data sets."""
        return sum(one.count for one in self.data_sets)


@dataclass(frozen=True, eq=False)
class RowFile:
    """A mapped file of rows. Pickled, it is its path."""

    path: Path
    about: AboutRows
    table: pa.Table
    _mapping: mmap.mmap

    def __reduce__(self) -> tuple[Any, ...]:
        return open_rows, (self.path,)

    def release(self) -> None:
        """Let go of the pages that were read; the kernel keeps them for whoever asks next."""
        self._mapping.madvise(mmap.MADV_DONTNEED)


def open_rows(path: Path) -> RowFile:
    """Map a file that ``copy_rows`` wrote.

    Raises
        TrainingError: it cannot be read, or holds something else.
    """
    try:
        with path.open("rb") as handle:
            mapping = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        table = _table(mapping)
        about = AboutRows.model_validate_json((table.schema.metadata or {}).get(KEY, b""))
    except (OSError, ValueError, pa.ArrowException) as error:  # pydantic's and mmap's are ValueErrors
        raise _damaged(path, error) from error
    if not table.schema.remove_metadata().equals(SCHEMA) or table.num_rows != about.num_rows:
        raise _damaged(path, f"expected {about.num_rows} rows of {SCHEMA.names}, found {table.num_rows}")
    return RowFile(path, about, table, mapping)


def _table(mapping: mmap.mmap) -> pa.Table:
    """The batches of a file, checked; the few pages that each takes are let go of again."""
    mapping.madvise(mmap.MADV_RANDOM)  # rows are asked for in random order: what lies behind one is not
    batches = []
    with pa.ipc.open_stream(pa.BufferReader(pa.py_buffer(mapping))) as reader:
        for batch in reader:
            batch.validate()
            batches.append(batch)
            if not len(batches) % BATCHES_SEEN:
                mapping.madvise(mmap.MADV_DONTNEED)
        return pa.Table.from_batches(batches, reader.schema)


def _damaged(path: Path, why: object) -> TrainingError:
    return TrainingError(f"the mapped rows in {path} are damaged ({why}); delete the file and run again")


def copy_rows(rows_path: Path, path: Path, teacher_dir: Path | None) -> None:
    """Make the file that ranks map, unless it is there and was made from these rows and scores.

    A copy that was interrupted is never mapped, and removed by the next one.

    Parameters
        rows_path: ``train.parquet``; the rows of a data set lie together.
        teacher_dir: a table of scores, which take the place of those that came with the data.

    Raises
        TrainingError: no rows at all, or rows that cannot be trained on.
        DataError: the table is damaged, lacks a pair of these rows, or scores a pair that they do not have.
        StoreError: the disk has too little room, or refused.
    """
    source = _fingerprint(rows_path, teacher_dir)
    if path.exists() and _source_of(path) == source:
        return
    for left in path.parent.glob(f"{partial_of(path)}*"):
        left.unlink()
    with _parquet(rows_path) as parquet:
        data_sets = _data_sets(rows_path, parquet)
        about = AboutRows(source=source, data_sets=tuple(data_sets))
        _refuse_full_disk(path, parquet.metadata)
        schema = SCHEMA.with_metadata({KEY: about.model_dump_json().encode()})
        join = None if teacher_dir is None else ScoreJoin(read_teacher_scores(teacher_dir))
        with written_atomically(path) as sink, pa.ipc.new_stream(sink, schema) as writer:
            known = [name for name in SCHEMA.names if name in parquet.schema_arrow.names]
            batches = _batches(rows_path, parquet, ["dataset", "kind", *known], BATCH_ROWS)
            for batch in _told(batches, about.num_rows):
                rows = prepared(batch)
                writer.write_batch(rows if join is None else _taught(batch, rows, join))
            if join is not None:
                join.finish()


def _source_of(path: Path) -> str:
    try:
        return open_rows(path).about.source
    except TrainingError as error:
        logger.warning("the rows are copied again: %s", error)
        return ""


def _fingerprint(rows_path: Path, teacher_dir: Path | None) -> str:
    """Which rows and scores these are: artefacts are never changed, so names, sizes and times tell."""
    files = [rows_path, *(sorted(teacher_dir.iterdir()) if teacher_dir else ())]
    try:
        facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except OSError as error:
        raise _unreadable(rows_path, error) from error
    return sha256(repr((SCHEMA.to_string(), facts)).encode()).hexdigest()


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        parquet = pq.ParquetFile(path, buffer_size=READ_BYTES, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    with parquet:
        if not parquet.metadata.num_rows:
            raise TrainingError(f"{path} has no training rows; check data.train and the pool's statistics")
        wanted = [*ABOUT_SET, *(name for name in SCHEMA.names if name not in (*SCORES, "has_negative"))]
        missing = [name for name in wanted if name not in parquet.schema_arrow.names]
        if missing:
            raise TrainingError(f"{path}: expected the columns {wanted}, missing are {missing}; {AGAIN}")
        yield parquet


def _batches(path: Path, parquet: pq.ParquetFile, columns: list[str], size: int) -> Iterator[pa.RecordBatch]:
    try:
        for group in range(parquet.num_row_groups):  # one by one: a reader of many holds on to what is behind
            yield from parquet.iter_batches(size, row_groups=[group], columns=columns, use_threads=False)
            pa.default_memory_pool().release_unused()
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> TrainingError:
    return TrainingError(f"{path} cannot be read: {error}; {AGAIN}")


def _data_sets(path: Path, parquet: pq.ParquetFile) -> list[DataSetRows]:
    """The data sets in file order; what is said of one stands in its first row."""
    found: dict[str, dict[str, Any]] = {}
    behind, last = 0, None
    for batch in _batches(path, parquet, ABOUT_SET, 16 * BATCH_ROWS):
        runs = pc.run_end_encode(batch.column("dataset"))
        starts = [0, *runs.run_ends.to_pylist()]
        for name, first, end in zip(runs.values.to_pylist(), starts, starts[1:], strict=False):
            if name != last and name in found:
                raise TrainingError(
                    f"{path}: expected the rows of a data set in one piece, found some of {name} after "
                    f"those of {last}; {AGAIN}"
                )
            if name != last:
                [told] = batch.select(ABOUT_SET[1:]).slice(first, 1).to_pylist()
                found[name] = {"name": name, **told, "first": behind + first, "count": 0}
            found[name]["count"] += end - first
            last = name
        behind += batch.num_rows
    try:
        return [DataSetRows(**{**one, "instruction": str(one["instruction"])}) for one in found.values()]
    except ValidationError as error:
        raise TrainingError(
            f"{path}: a data set is not described as it should be: {error}; {AGAIN}"
        ) from error


def _refuse_full_disk(path: Path, metadata: pq.FileMetaData) -> None:
    """Say before the work that there is no room; texts that repeat take more than the footer knows of."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    needed = sum(group.total_byte_size for group in groups)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise StoreError(f"cannot write {path}: {refusal(error)}") from error
    if free < needed:
        raise StoreError(
            f"{path} takes at least {needed / 1e9:.1f} GB, the rows without compression, and "
            f"{free / 1e9:.1f} GB are free; free space, or set paths.store to another disk, and run again"
        )


def _told(batches: Iterator[pa.RecordBatch], total: int) -> Iterator[pa.RecordBatch]:
    """The batches, with a word now and then about how far they are."""
    behind, spoke = 0, time.monotonic()
    for batch in batches:
        yield batch
        behind += batch.num_rows
        beat()
        if time.monotonic() - spoke > SAY_EVERY_SECONDS:
            spoke = time.monotonic()
            logger.info("training rows: %s of %s copied", f"{behind:,}", f"{total:,}")


def prepared(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of ``train.parquet`` as they are mapped.

    Raises
        TrainingError: a text is missing, or scores are not aligned with their negatives.
    """
    column = partial(_column, batch)
    try:
        rows = {name: column(name) for name in SCHEMA.names if name != "has_negative"}
        rows["label"] = pc.fill_null(rows["label"], "")
        for name in TEXTS:
            _refuse_rows(batch, pc.is_null(rows[name]), f"no {name}")
        _refuse_nulls_within(batch, rows["negatives"])
        _refuse_misaligned(batch, rows["negatives"], rows["negative_scores"])
        rows["has_negative"] = _has_negative(rows["positive"], rows["negatives"])
    except pa.ArrowException as error:
        raise TrainingError(f"training rows are not as they should be: {error}; {AGAIN}") from error
    return pa.RecordBatch.from_pydict(rows, schema=SCHEMA)


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    kind = SCHEMA.field(name).type
    return batch.column(name).cast(kind) if name in batch.schema.names else pa.nulls(batch.num_rows, kind)


def _refuse_rows(batch: pa.RecordBatch, wrong: pa.Array, what: str) -> None:
    found = np.flatnonzero(wrong.to_numpy(zero_copy_only=False))
    if len(found):
        [row] = batch.select(["dataset", "query"]).slice(int(found[0]), 1).to_pylist()
        raise TrainingError(
            f"data set {row['dataset']} has {what} in the row of the query {str(row['query'])[:60]!r}; "
            f"{AGAIN}"
        )


def _refuse_nulls_within(batch: pa.RecordBatch, negatives: pa.ListArray) -> None:
    texts = negatives.flatten()
    if texts.null_count:
        parents = pc.list_parent_indices(negatives).to_numpy()
        wrong = np.zeros(len(negatives), bool)
        wrong[parents[texts.is_null().to_numpy(zero_copy_only=False)]] = True
        _refuse_rows(batch, pa.array(wrong), "a negative without text")


def _refuse_misaligned(batch: pa.RecordBatch, negatives: pa.ListArray, scores: pa.ListArray) -> None:
    given, known = (pc.fill_null(pc.list_value_length(one), 0).to_numpy() for one in (negatives, scores))
    wrong = (known > 0) & (known != given)
    if wrong.any():
        first = int(wrong.argmax())
        counts = f"{known[first]} teacher scores for {given[first]} negatives"
        _refuse_rows(batch, pa.array(wrong), counts)


def _has_negative(positives: pa.StringArray, negatives: pa.ListArray) -> pa.BooleanArray:
    texts, parents = negatives.flatten(), pc.list_parent_indices(negatives)
    is_other = pc.not_equal(texts, positives.take(parents))
    usable = pc.and_(is_other, pc.not_equal(pc.utf8_trim(texts, SPACES), ""))
    found = np.zeros(len(positives), bool)
    found[parents.to_numpy()[usable.to_numpy(zero_copy_only=False)]] = True
    return pa.array(found)


def _taught(batch: pa.RecordBatch, rows: pa.RecordBatch, join: ScoreJoin) -> pa.RecordBatch:
    """Rows with the teacher's scores in place of their own, but for kinds that it did not score."""
    kinds = batch.column("kind").to_pylist()
    if not join.kinds.intersection(kinds):
        return rows
    columns = rows.select(["query", "positive", "negatives", *SCORES]).to_pydict()
    concerned = [number for number, kind in enumerate(kinds) if kind in join.kinds]
    pairs = [
        row_pairs(columns["query"][number], columns["positive"][number], columns["negatives"][number] or ())
        for number in concerned
    ]
    found = iter(join.take(keys_of([pair for row in pairs for pair in row])).tolist())
    for number, row in zip(concerned, pairs, strict=True):
        scores = {passage: next(found) for _, passage in row}
        columns["positive_score"][number] = scores[columns["positive"][number]]
        # None: a blank one, which nobody scores
        columns["negative_scores"][number] = [scores.get(text) for text in columns["negatives"][number] or ()]
    for name in SCORES:
        field = SCHEMA.field(name)
        rows = rows.set_column(SCHEMA.get_field_index(name), field, pa.array(columns[name], field.type))
    return rows
