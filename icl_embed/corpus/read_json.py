"""JSON documents and JSON lines, by orjson: no NaN, no infinity, no lone surrogates, no byte order mark.

orjson keeps the last of duplicate keys without a word and accepts NUL characters; both are refused here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

from icl_embed.corpus.dotted import entries, select
from icl_embed.corpus.read_lines import BYTE_ORDER_MARK, line_encoding, not_encoded, raw_lines
from icl_embed.corpus.records import Record, Tolerance, fault
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import Fetched

MAX_DOCUMENT_BYTES = 512 << 20
ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # after an escaped backslash, u0000 is five letters


def read_jsonl(file: Fetched, table: Table, tolerance: Tolerance) -> Iterator[Record]:
    """One record per line that is not blank."""
    for number, line in raw_lines(file, table.encoding):
        if not line.strip():
            continue
        try:
            value = parse(line, line_encoding(table.encoding, number), file.name, number)
            yield select(value, table.fields, file.name, number)
        except DataError as error:
            tolerance.reject(error)


def read_json(file: Fetched, table: Table, tolerance: Tolerance) -> Iterator[Record]:
    """The records at ``table.records`` of one document (default: the elements of the list that it is)."""
    with file.open() as handle:
        data = handle.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise DataError(
            f"{file.name} is longer than {MAX_DOCUMENT_BYTES} bytes; use JSON lines for data this large"
        )
    document = parse(data, table.encoding, file.name, 1)
    for number, (value, outer) in enumerate(entries(document, table.records or "*", file.name), start=1):
        try:
            yield select(value, table.fields, file.name, number, outer)
        except DataError as error:
            tolerance.reject(error)


def parse(data: bytes, encoding: str, file: str, number: int) -> Any:
    """Strict JSON.

    Raises
        DataError: anything but one JSON value without duplicate keys and NUL characters.
    """
    if encoding == "utf-8" and data.startswith(BYTE_ORDER_MARK):
        raise fault(
            file, number, 'starts with a byte order mark; save without it, or set encoding = "utf-8-sig"'
        )
    try:
        if encoding != "utf-8":
            data = data.decode(encoding).removeprefix("\ufeff").encode()
        value = orjson.loads(data)
    except UnicodeError as error:
        raise fault(file, number, not_encoded(encoding, str(error))) from error
    except orjson.JSONDecodeError as error:
        _refuse_other_encodings(data, file, number)
        raise fault(file, number, f"is not valid JSON: {error}") from error
    if b"\0" in data or (b"\\u0000" in data and ESCAPED_NUL.search(data)):
        raise fault(file, number, "holds a NUL character")
    _refuse_duplicates(value, data, file, number)
    return value


def _refuse_other_encodings(data: bytes, file: str, number: int) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"byte 0x{data[error.start]:02x} at column {error.start + 1}"
        raise fault(file, number, not_encoded("utf-8", reason)) from error


def _refuse_duplicates(value: Any, data: bytes, file: str, number: int) -> None:
    """Duplicates make a key's text appear again; only then (or behind escapes) the slow parser looks."""
    keys = list(value) if isinstance(value, dict) else []
    suspicious = not isinstance(value, dict) or b"\\u" in data
    if not suspicious and all(data.count(b'"' + key.encode() + b'"') < 2 for key in keys):
        return
    try:
        json.loads(data, object_pairs_hook=lambda pairs: _unique(pairs, file, number))
    except (RecursionError, ValueError) as error:  # orjson has judged the syntax; a huge integer lands here
        raise fault(file, number, f"cannot be checked for duplicate keys: {error}") from error


def _unique(pairs: list[tuple[str, Any]], file: str, number: int) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise fault(file, number, f"the key {key!r} appears twice; which value is meant is unknown")
        seen.add(key)
