"""The files of a data set artefact: ``rows.parquet`` and, for retrieval, ``corpus.parquet``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from icl_embed.corpus.rows import Passage, Row
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import SPLIT_NAMES

ROWS_FILE = "rows.parquet"
CORPUS_FILE = "corpus.parquet"
ROW_SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("positives", pa.list_(pa.string()), nullable=False),
        pa.field("negatives", pa.list_(pa.string()), nullable=False),
        ("label", pa.string()),
        ("score", pa.float64()),
        ("positive_scores", pa.list_(pa.float64())),
        ("negative_scores", pa.list_(pa.float64())),
    ]
)
PASSAGE_SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("passage_id", "split", "text")]
)
GROUP_BYTES = 64 << 20  # of a row group that is written while rows still come
GROUP_ROWS = 32_768


def write_rows(rows: Mapping[str, Sequence[Row]], output: Path) -> None:
    """All rows by split, in their order.

    Raises
        DataError: the disk refuses.
    """
    records = [
        {
            "row_id": f"{name}-{number:06d}",
            "split": name,
            "query": row.query,
            "positives": row.positives,
            "negatives": row.negatives,
            "label": row.label,
            "score": row.score,
            "positive_scores": row.positive_scores,
            "negative_scores": row.negative_scores,
        }
        for name in SPLIT_NAMES
        for number, row in enumerate(rows[name])
    ]
    _write(pa.Table.from_pylist(records, schema=ROW_SCHEMA), output / ROWS_FILE)


def write_corpus(passages: Mapping[str, Sequence[Passage]], output: Path) -> None:
    """All passages by split, in their order.

    Raises
        DataError: the disk refuses.
    """
    records = [
        {"passage_id": f"{name}-p{number:06d}", "split": name, "text": passage.text}
        for name, part in passages.items()
        for number, passage in enumerate(part)
    ]
    _write(pa.Table.from_pylist(records, schema=PASSAGE_SCHEMA), output / CORPUS_FILE)


def _write(table: pa.Table, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression="zstd")
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> DataError:
    return DataError(f"cannot write {path}: {error.strerror or error}")


class RowWriter:
    """``rows.parquet`` of training rows that come in batches; no more than a row group is in memory."""

    def __init__(self, output: Path) -> None:
        self._path = output / ROWS_FILE
        self._waiting: list[pa.RecordBatch] = []
        try:
            output.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._path, ROW_SCHEMA, compression="zstd")
        except OSError as error:
            raise _cannot_write(self._path, error) from error
        self.num_rows = 0

    def add(self, rows: pa.RecordBatch) -> None:
        """Append rows of the schema's columns but for ``row_id`` and ``split``.

        Raises
            DataError: the disk refuses.
        """
        count = rows.num_rows
        ids = pa.array([f"train-{self.num_rows + number:06d}" for number in range(count)], pa.string())
        split = pa.repeat("train", count)
        columns = [rows.column(name) for name in ROW_SCHEMA.names[2:]]
        self._waiting.append(pa.RecordBatch.from_arrays([ids, split, *columns], schema=ROW_SCHEMA))
        self.num_rows += count
        full = sum(batch.nbytes for batch in self._waiting) >= GROUP_BYTES
        if full or sum(batch.num_rows for batch in self._waiting) >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what waits, and the footer.

        Raises
            DataError: the disk refuses.
        """
        self._flush()
        try:
            self._writer.close()
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def _flush(self) -> None:
        if self._waiting:
            try:
                self._writer.write_table(pa.Table.from_batches(self._waiting))
            except OSError as error:
                raise _cannot_write(self._path, error) from error
            self._waiting = []
