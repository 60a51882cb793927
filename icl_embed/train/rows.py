"""The training rows by number: what mining wrote, with a teacher's scores where there are any.

A row is made from the mapped file when it is asked for. What is kept of a data set is where its rows lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from icl_embed.config import Kind
from icl_embed.errors import TrainingError
from icl_embed.train.row_file import ROWS_NAME, SCHEMA, RowFile, copy_rows, open_rows

Numbers = NDArray[np.int32]


@dataclass(frozen=True)
class Row:
    """One training pair with its hard negatives; the teacher's scores where the data has them.

    ``negative_scores`` is empty, or aligned with ``negatives``: a mined negative has no score.
    """

    query: str
    positive: str
    response: str
    label: str
    negatives: tuple[str, ...]
    positive_score: float | None = None
    negative_scores: tuple[float | None, ...] = ()


@dataclass(frozen=True, eq=False)
class Rows(Sequence[Row]):
    """Some rows of a mapped file.

    Attributes
        file: where they lie.
        numbers: of each, its number in the file: 4 bytes per row where they do not lie side by side.
    """

    file: RowFile
    numbers: range | Numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, number: int) -> Row: ...
    @overload
    def __getitem__(self, number: slice) -> Rows: ...
    def __getitem__(self, number: int | slice) -> Row | Rows:
        if isinstance(number, slice):
            return self.select(np.arange(len(self), dtype=np.int32)[number])
        read, place = self._read, int(self.numbers[number])
        return Row(
            query=read("query", place),
            positive=read("positive", place),
            response=read("response", place),
            label=read("label", place),
            negatives=tuple(read("negatives", place) or ()),
            positive_score=read("positive_score", place),
            negative_scores=tuple(read("negative_scores", place) or ()),
        )

    def query(self, number: int) -> str:
        """The query of a row, which costs a tenth of the row."""
        return str(self._read("query", int(self.numbers[number])))

    def label(self, number: int) -> str:
        """The label of a row, at the same price."""
        return str(self._read("label", int(self.numbers[number])))

    def select(self, numbers: Numbers) -> Rows:
        """The rows with these numbers among these."""
        if isinstance(self.numbers, range):
            return Rows(self.file, (self.numbers.start + numbers).astype(np.int32))
        return Rows(self.file, self.numbers[numbers])

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of all these rows; only what is small should be asked for."""
        column = self.file.table.column(name)
        if isinstance(self.numbers, range):
            return column.slice(self.numbers.start, len(self.numbers))
        return column.take(pa.array(self.numbers))

    def release(self) -> None:
        """Let go of what was read, so that a process does not seem to hold all rows that it has ever seen."""
        self.file.release()

    def _read(self, name: str, place: int) -> Any:
        column = self._columns.get(name)
        try:
            return None if column is None else column[place].as_py()
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise TrainingError(
                f"row {place} of {self.file.path} is damaged ({error}); delete the file and run again"
            ) from error

    @cached_property
    def _columns(self) -> Mapping[str, pa.ChunkedArray]:
        """Those that hold something: a page of nothing costs as much as any other."""
        columns = zip(SCHEMA.names, self.file.table.columns, strict=True)
        return {name: column for name, column in columns if column.null_count < len(column)}

    def __reduce__(self) -> tuple[Any, ...]:
        return Rows, (self.file, self.numbers)


@dataclass(frozen=True)
class TrainingSet:
    """The rows of one data set."""

    name: str
    kind: Kind
    instruction: str
    weight: float
    rows: Rows

    @cached_property
    def positions_by_label(self) -> Mapping[str, Numbers]:
        """Row numbers of every label, in the order in which labels appear; 4 bytes per row."""
        labels = self.rows.column("label").dictionary_encode().combine_chunks()
        self.rows.release()
        codes = labels.indices.to_numpy()
        positions = np.argsort(codes, kind="stable").astype(np.int32)
        ends = np.cumsum(np.bincount(codes))
        return dict(zip(labels.dictionary.to_pylist(), np.split(positions, ends[:-1]), strict=True))

    @property
    def num_with_negative(self) -> int:
        """Rows with a negative of their own that is neither blank nor the positive."""
        found = int(pc.sum(self.rows.column("has_negative")).as_py())
        self.rows.release()
        return found

    def with_negatives(self) -> TrainingSet:
        """The same without rows that have no negative."""
        kept = np.flatnonzero(self.rows.column("has_negative").to_numpy()).astype(np.int32)
        return replace(self, rows=self.rows.select(kept))

    def __reduce__(self) -> tuple[Any, ...]:  # without what was worked out
        return TrainingSet, (self.name, self.kind, self.instruction, self.weight, self.rows)


def read_training_sets(rows_path: Path, work_dir: Path, teacher_dir: Path | None = None) -> list[TrainingSet]:
    """The data sets of ``train.parquet`` by name, mapped from a copy in the work folder, made if need be.

    Several processes may have the same work folder, but one of them must be done before the others call.

    Parameters
        teacher_dir: a table of teacher scores; None when there is no teacher.

    Raises
        TrainingError: no rows at all, or rows that cannot be trained on.
        DataError: the table is damaged, lacks a pair of these rows, or scores a pair that they do not have.
        StoreError: the disk has too little room, or refused.
    """
    path = work_dir / ROWS_NAME
    copy_rows(rows_path, path, teacher_dir)
    file = open_rows(path)
    return [
        TrainingSet(
            one.name,
            one.kind,
            one.instruction,
            one.weight,
            Rows(file, range(one.first, one.first + one.count)),
        )
        for one in sorted(file.about.data_sets, key=lambda one: one.name)
    ]


def text_hash(text: str) -> int:
    """A positive 63-bit number for a text, equal on every rank; 0 stands for the empty text."""
    if not text:
        return 0
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
