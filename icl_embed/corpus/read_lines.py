"""Text as bytes, split on newlines only; plain lines and matrices of numbers.

``str.splitlines`` would also split on U+2028 and a dozen other characters, and text mode on a lone CR;
either shifts every later line number.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from icl_embed.corpus.records import Record, Tolerance, fault, place_fields
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import WIDE_ENCODINGS, Table
from icl_embed.sources.fetched import Fetched

MAX_LINE_BYTES = 16 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def raw_lines(file: Fetched, encoding: str = "utf-8") -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes without the newline) of each line; blank lines too.

    Lines of UTF-16 and UTF-32 come in UTF-8: their own bytes do not show where a line ends.

    Raises
        DataError: a line is longer than 16 MiB, or the file is not UTF-16 or UTF-32 as it should be.
    """
    if encoding.startswith(WIDE_ENCODINGS):
        with opened_as_text(file, encoding) as text:
            for number, wide in enumerate(iter(lambda: text.readline(MAX_LINE_BYTES + 1), ""), start=1):
                if len(wide) > MAX_LINE_BYTES:
                    raise fault(file.name, number, f"the line is longer than {MAX_LINE_BYTES} characters")
                plain = wide.removeprefix("\ufeff") if number == 1 else wide
                yield number, plain.removesuffix("\n").removesuffix("\r").encode()
        return
    with file.open() as handle:
        number = 0
        while line := handle.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise fault(file.name, number, f"the line is longer than {MAX_LINE_BYTES} bytes")
            yield number, line.removesuffix(b"\n").removesuffix(b"\r")


@contextmanager
def opened_as_text(file: Fetched, encoding: str) -> Iterator[IO[str]]:
    """The whole file as one text; only newlines end a line.

    Raises
        DataError: it is not in this encoding.
    """
    with file.open() as handle, io.TextIOWrapper(handle, encoding=encoding, newline="\n") as text:
        try:
            yield text
        except UnicodeError as error:
            raise DataError(f"{file.name} {not_encoded(encoding, str(error))}") from error


def line_encoding(encoding: str, number: int) -> str:
    """In what ``raw_lines`` gives a line: only the first one can have a byte order mark."""
    if encoding.startswith(WIDE_ENCODINGS) or (encoding == "utf-8-sig" and number > 1):
        return "utf-8"
    return encoding


def not_encoded(encoding: str, reason: str) -> str:
    """What is wrong with bytes that are not in the encoding they should have, and what to do."""
    return (
        f'is not {encoding}: {reason}; say in the card what it is, e.g. encoding = "gb18030", "utf-16", '
        '"cp1252" or "latin-1"'
    )


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
        reason = f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
        raise fault(file, number, not_encoded(encoding, reason)) from error
    if "\0" in text:
        raise fault(file, number, f"holds a NUL character at column {text.index(chr(0)) + 1}")
    return text


def text_lines(file: Fetched, table: Table, tolerance: Tolerance) -> Iterator[tuple[int, str]]:
    """(number, text) of each readable line that is not blank and not a comment."""
    for number, line in raw_lines(file, table.encoding):
        try:
            text = decoded(line, line_encoding(table.encoding, number), file.name, number)
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
