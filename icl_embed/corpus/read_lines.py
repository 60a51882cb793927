"""Text as bytes, split on newlines only; plain lines and matrices of numbers.

``str.splitlines`` would also split on U+2028 and a dozen other characters, and text mode on a lone CR;
either shifts every later line number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from icl_embed.corpus.records import Record, Tolerance, fault, place_fields
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import Fetched

MAX_LINE_BYTES = 16 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def raw_lines(file: Fetched) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes without the newline) of each line; blank lines too.

    Raises
        DataError: a line is longer than 16 MiB.
    """
    with file.open() as handle:
        number = 0
        while line := handle.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise fault(file.name, number, f"the line is longer than {MAX_LINE_BYTES} bytes")
            yield number, line.removesuffix(b"\n").removesuffix(b"\r")


def decoded(line: bytes, encoding: str, file: str, number: int) -> str:
    """The line as text, strictly.

    Raises
        DataError: a byte order mark, bytes that are not this encoding, or a NUL character.
    """
    if encoding == "utf-8" and line.startswith(BYTE_ORDER_MARK):
        raise fault(
            file, number, 'starts with a byte order mark; save without it, or set encoding = "utf-8-sig"'
        )
    try:
        text = line.decode(encoding)
    except UnicodeDecodeError as error:
        raise fault(
            file, number, f"is not {encoding}: byte 0x{line[error.start]:02x} at column {error.start + 1}"
        ) from error
    if "\0" in text:
        raise fault(file, number, f"holds a NUL character at column {text.index(chr(0)) + 1}")
    return text


def text_lines(file: Fetched, table: Table, tolerance: Tolerance) -> Iterator[tuple[int, str]]:
    """(number, text) of each readable line that is not blank and not a comment."""
    for number, line in raw_lines(file):
        encoding = table.encoding if number == 1 or table.encoding != "utf-8-sig" else "utf-8"
        try:
            text = decoded(line, encoding, file.name, number)
        except DataError as error:
            tolerance.reject(error)
            continue
        if text.strip() and not (table.comment and text.startswith(table.comment)):
            yield number, text


def read_lines(file: Fetched, table: Table, tolerance: Tolerance) -> Iterator[Record]:
    """One record per line: ``text``, and ``line``, its number without counting blanks and comments."""
    for index, (number, text) in enumerate(text_lines(file, table, tolerance), start=1):
        yield {"text": text.strip(), "line": index, **place_fields(file.name, number)}


def read_matrix(file: Fetched, table: Table, tolerance: Tolerance) -> Iterator[Record]:
    """The upper triangle of a square matrix of numbers: ``row`` < ``column`` (from 1) and ``value``.

    Raises
        DataError: not numbers, not finite, or not square.
    """
    rows: list[tuple[int, list[str]]] = [(n, text.split()) for n, text in text_lines(file, table, tolerance)]
    for row, (number, cells) in enumerate(rows, start=1):
        if len(cells) != len(rows):
            raise fault(
                file.name, number, f"has {len(cells)} cells; a square matrix of {len(rows)} was expected"
            )
        for column in range(row + 1, len(cells) + 1):
            try:
                value = float(cells[column - 1])
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise fault(file.name, number, f"cell {column} is not a number: {cells[column - 1]!r}")
            yield {"row": row, "column": column, "value": value, **place_fields(file.name, number)}
