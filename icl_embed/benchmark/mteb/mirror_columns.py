"""Columns from the records of a mirror's files: a missing or wrong field is told with its file and line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from icl_embed.corpus.records import Record, where
from icl_embed.errors import DataError

Columns = dict[str, list[Any]]
Reader = Callable[[Record, str], Any]


def columns_of(records: Iterable[Record], fields: Mapping[str, tuple[str, Reader]]) -> Columns:
    """Column name → its values; a field is the record's field and what reads it.

    Raises
        DataError: a field is missing or not what its reader expects.
    """
    columns: Columns = {name: [] for name in fields}
    for record in records:
        for name, (wanted, read) in fields.items():
            columns[name].append(read(record, wanted))
    return columns


def value_of(record: Record, name: str) -> Any:
    """Whatever a field holds, but not nothing.

    Raises
        DataError: it is missing.
    """
    value = record.get(name)
    if value is None:
        raise DataError(f"{where(record)}: the field {name!r} is missing")
    return value


def text_of(record: Record, name: str) -> str:
    """A text.

    Raises
        DataError: missing, or no text.
    """
    value = value_of(record, name)
    if not isinstance(value, str):
        raise DataError(f"{where(record)}: {name} must be a text, found {value!r}")
    return value


def optional_text_of(record: Record, name: str) -> str:
    """A text; empty if there is none."""
    return text_of(record, name) if record.get(name) is not None else ""


def texts_of(record: Record, name: str) -> list[str]:
    """A text or a list of texts, as a list.

    Raises
        DataError: missing, or something else.
    """
    value = value_of(record, name)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where(record)}: {name} must be a text or a list of texts, found {value!r}")
    return texts


def identity_of(record: Record, name: str) -> str:
    """An identity, as text; files hold them as numbers too."""
    return str(value_of(record, name))


def number_of(record: Record, name: str) -> float:
    """A finite number.

    Raises
        DataError: missing, or no such number.
    """
    try:
        number = float(value_of(record, name))
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where(record)}: {name} must be a number, found {record[name]!r}")
    return number


def whole_number_of(record: Record, name: str) -> int:
    """A whole number.

    Raises
        DataError: missing, or no such number.
    """
    number = number_of(record, name)
    if not number.is_integer():
        raise DataError(f"{where(record)}: {name} must be a whole number, found {record[name]!r}")
    return int(number)
