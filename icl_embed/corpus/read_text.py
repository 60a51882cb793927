"""Plain text in a form of its own: records by a regular expression, fields by others within a record.

Ontologies (OBO), examples in reStructuredText, pages of manuals and mails are such texts: each has its own
marks, and too few files share them for a reader of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from icl_embed.corpus.read_lines import not_encoded
from icl_embed.corpus.records import Record, Tolerance, fault, place_fields
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import Fetched

MAX_TEXT_BYTES = 64 << 20
Values = str | list[str]


def read_text(file: Fetched, table: Table, tolerance: Tolerance) -> Iterator[Record]:
    """One record per match of ``table.records`` (default: the whole file), with the fields found in it.

    Without fields, a record has one: ``text``. ``^`` and ``$`` are the ends of a line; ``(?s)`` lets a dot
    cross lines. A file that is not in the table's encoding is one malformed record.

    Raises
        DataError: a pattern is no regular expression, or the file is too long.
    """
    fields = patterns_of(table, file.name)
    records = _compiled(table.records or r"[\s\S]+", "records", file.name)
    with file.open() as handle:
        data = handle.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise DataError(f"{file.name} is longer than {MAX_TEXT_BYTES} bytes")
    try:
        text = data.decode(table.encoding).replace("\r\n", "\n")
    except UnicodeError as error:
        tolerance.reject(fault(file.name, 1, not_encoded(table.encoding, str(error))))
        return
    for number, match in enumerate(records.finditer(text), start=1):
        place = place_fields(file.name, number)
        yield {**(extracted(match.group(), fields) if fields else {"text": match.group().strip()}), **place}


def patterns_of(table: Table, file: str) -> dict[str, re.Pattern[str]]:
    """The fields of a table as patterns.

    Raises
        DataError: one is no regular expression.
    """
    return {name: _compiled(pattern, f"the field {name}", file) for name, pattern in table.fields.items()}


def extracted(text: str, patterns: Mapping[str, re.Pattern[str]]) -> dict[str, Values]:
    """What each pattern finds: its first group, or all of the match if it has none.

    Several finds are a list; what is found nowhere is an empty text, since a text need not say everything.
    """
    found: dict[str, Values] = {}
    for name, pattern in patterns.items():
        group = min(1, pattern.groups)
        values = [value for match in pattern.finditer(text) if (value := (match.group(group) or "").strip())]
        found[name] = "" if not values else values[0] if len(values) == 1 else values
    return found


def _compiled(pattern: str, what: str, file: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise DataError(
            f"{file}: {what} must be a regular expression in this format; {pattern!r} is none: {error}"
        ) from error
