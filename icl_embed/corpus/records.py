"""A record: what every reader gives, whatever the format, and how its faults are told.

A record is a dict of field name → text, number, list, mapping or nothing. Four fields are always there:
``_file`` (the file's name), ``_stem`` and ``_folder`` (parts of it) and ``_number`` (line or place, from 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from icl_embed.errors import DataError
from icl_embed.sources.fetched import COMPRESSED_ENDINGS

Record = dict[str, Any]
SUFFIXES = frozenset(
    [*".jsonl .ndjson .json .csv .tsv .txt .parquet .arrow .xml .yaml .yml .py".split(), *COMPRESSED_ENDINGS]
)  # what a stem loses


def place_fields(file: str, number: int) -> Record:
    """The fields that say where a record comes from."""
    path = PurePosixPath(file.rpartition("!")[2])
    stem = path.name
    while PurePosixPath(stem).suffix in SUFFIXES:
        stem = PurePosixPath(stem).stem
    return {"_file": file, "_stem": stem, "_folder": path.parent.name, "_number": number}


def where(record: Mapping[str, Any]) -> str:
    """Where a record comes from, for messages: ``file, record 7``."""
    return f"{record.get('_file', '?')}, record {record.get('_number', '?')}"


def fault(file: str, number: int, reason: str) -> DataError:
    """An unreadable record."""
    return DataError(f"{file}, record {number}: {reason}")


class Tolerance:
    """Counts unreadable records, and gives up when they are more than the declared share."""

    def __init__(self, share: float, file: str) -> None:
        self._share, self._file = share, file
        self._first: DataError | None = None
        self.malformed = 0
        self.read = 0

    def reject(self, error: DataError) -> None:
        """Count a malformed record.

        Raises
            DataError: none is tolerated.
        """
        self.malformed += 1
        self._first = self._first or error
        if self._share == 0.0:
            raise error

    def settle(self) -> None:
        """Judge a whole file.

        Raises
            DataError: more than the tolerated share was malformed; the first one is quoted.
        """
        total = self.read + self.malformed
        if self._first is not None and self.malformed > self._share * total:
            raise DataError(
                f"{self._file}: {self.malformed} of {total} records are malformed, more than "
                f"max_malformed = {self._share:g} allows; the first: {self._first}"
            ) from self._first
