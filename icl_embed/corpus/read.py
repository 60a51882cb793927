"""Reading files into records: the format by the card or the file's ending, one reader per format."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import PurePosixPath

from icl_embed.corpus.html_text import html_text
from icl_embed.corpus.read_dictd import read_dictd
from icl_embed.corpus.read_json import read_json, read_jsonl
from icl_embed.corpus.read_lines import read_lines, read_matrix
from icl_embed.corpus.read_python import read_python
from icl_embed.corpus.read_table import read_arrow, read_csv, read_parquet, read_qrels, read_tsv
from icl_embed.corpus.read_text import read_text
from icl_embed.corpus.read_xml import read_xml
from icl_embed.corpus.read_yaml import read_yaml
from icl_embed.corpus.records import Record, Tolerance
from icl_embed.errors import DataError
from icl_embed.sources.archive import matches
from icl_embed.sources.card_rows import WIDE_ENCODINGS, Format, Table
from icl_embed.sources.fetched import HEAD_BYTES, WEB_PAGE, Fetched, looks_like, plain_name

Reader = Callable[[Fetched, Table, Tolerance], Iterator[Record]]

READERS: dict[Format, Reader] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "qrels": read_qrels,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "xml": read_xml,
    "yaml": read_yaml,
    "python": read_python,
    "lines": read_lines,
    "matrix": read_matrix,
    "text": read_text,
}
ENDINGS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".xml": "xml",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".py": "python",
    ".txt": "lines",
    ".index": "dictd",
}


OWN_LOOKS: dict[Format, str] = {"parquet": "a Parquet file", "arrow": "an Arrow file"}
UTF_16_MARKS = (("utf-16", codecs.BOM_UTF16_LE), ("utf-16", codecs.BOM_UTF16_BE))


def read_table(files: Sequence[Fetched], table: Table) -> tuple[list[Record], int]:
    """All records of a table in file and line order, and how many malformed ones were tolerated.

    Raises
        DataError: no file fits, a format is unknown, or too much is malformed; names file and record.
        SourceError: a compressed file is damaged.
    """
    chosen = [file for file in files if any(_fits(file.name, pattern) for pattern in table.files)]
    if not chosen:
        listed = ", ".join(file.name for file in files[:12]) + (" …" if len(files) > 12 else "")
        raise DataError(f"no file fits {', '.join(table.files)}; the source has: {listed or 'none'}")
    records: list[Record] = []
    malformed = 0
    for file in chosen:
        tolerance = Tolerance(table.max_malformed, file.name)
        with file.open() as handle:
            head = handle.read(HEAD_BYTES)
        chosen_format = _format(file.name, table, head)
        _refuse_other_content(file.name, chosen_format, head, table)
        # of all formats, only this one is in two files
        reader = partial(read_dictd, beside=files) if chosen_format == "dictd" else READERS[chosen_format]
        for record in reader(file, table, tolerance):
            tolerance.read += 1
            records.append(_tidied(record, table))
        tolerance.settle()
        malformed += tolerance.malformed
    return records, malformed


def first_records(file: Fetched, table: Table, count: int) -> list[Record]:
    """The first records of a file, to see what it holds.

    Raises
        DataError, SourceError: as ``read_table``.
    """
    with file.open() as handle:
        head = handle.read(HEAD_BYTES)
    chosen = _format(file.name, table, head)
    _refuse_other_content(file.name, chosen, head, table)
    return list(islice(READERS[chosen](file, table, Tolerance(table.max_malformed, file.name)), count))


def _fits(name: str, pattern: str) -> bool:
    """A pattern without a folder also fits the bare name, in whatever folder of an archive it lies."""
    return matches(name, pattern) or ("/" not in pattern and matches(re.split(r"[/!]", name)[-1], pattern))


def _format(name: str, table: Table, head: bytes) -> Format:
    if table.format != "auto":
        return table.format
    ending = PurePosixPath(plain_name(name)).suffix
    if ending not in ENDINGS:
        looks = looks_like(head)
        seen = f" (it looks like {looks})" if looks else ""
        known = ", ".join([*READERS, "dictd"])
        raise DataError(f"{name}: cannot tell the format from its name{seen}; set format = one of {known}")
    return ENDINGS[ending]


def _refuse_other_content(name: str, chosen: Format, head: bytes, table: Table) -> None:
    """Say what a file is that cannot be what it is read as, before a reader stumbles over its bytes.

    Raises
        DataError: its first bytes are of another kind.
    """
    looks = looks_like(head)
    if looks == OWN_LOOKS.get(chosen) or (chosen == "arrow" and looks == "an Arrow stream") or not head:
        return
    if looks == WEB_PAGE and chosen == "text" and table.html:  # the card says that pages are what it wants
        return
    if not looks and chosen not in OWN_LOOKS and not table.encoding.startswith(WIDE_ENCODINGS):
        looks = _wide_text(head) or _no_text(head)
    if looks:
        raise DataError(f"{name} is read as {chosen}, but looks like {looks}")


def _wide_text(head: bytes) -> str:
    """UTF-16 or UTF-32 in words, with what to do; empty if it is neither."""
    for name, mark in (("utf-32", codecs.BOM_UTF32_LE), ("utf-32", codecs.BOM_UTF32_BE), *UTF_16_MARKS):
        if head.startswith(mark):
            return f'{name.upper()} text; set encoding = "{name}" in the card'
    for name, zeros, others in (("utf-16-le", head[1::2], head[::2]), ("utf-16-be", head[::2], head[1::2])):
        if zeros.count(0) > len(zeros) / 2 and others.count(0) < len(others) / 20:
            return f'UTF-16 text without a byte order mark; set encoding = "{name}" in the card'
    return ""


def _no_text(head: bytes) -> str:
    controls = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head)
    if controls <= max(8, len(head) / 20):  # a stray one is for the reader to name, with its line
        return ""
    return f"binary data of a kind that is not known here (its first bytes: {head[:8].hex(' ')})"


def _tidied(record: Record, table: Table) -> Record:
    for name in table.html:
        _apply(record, name, html_text)
    for name, pattern in table.remove.items():
        _apply(record, name, partial(re.sub, pattern, ""))
    return record


def _apply(record: Record, name: str, change: Callable[[str], str]) -> None:
    """Change the text of a field, or each text of a list."""
    value = record.get(name)
    if isinstance(value, str):
        record[name] = change(value)
    elif isinstance(value, list):
        record[name] = [change(item) if isinstance(item, str) else item for item in value]
