"""Reading files into records: the format by the card or the file's ending, one reader per format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath

from icl_embed.corpus.read_json import read_json, read_jsonl
from icl_embed.corpus.read_lines import read_lines, read_matrix
from icl_embed.corpus.read_python import read_python
from icl_embed.corpus.read_table import read_arrow, read_csv, read_parquet, read_tsv
from icl_embed.corpus.read_xml import read_xml
from icl_embed.corpus.read_yaml import read_yaml
from icl_embed.corpus.records import Record, Tolerance
from icl_embed.errors import DataError
from icl_embed.sources.archive import matches
from icl_embed.sources.card_rows import Format, Table
from icl_embed.sources.fetched import Fetched

Reader = Callable[[Fetched, Table, Tolerance], Iterator[Record]]

READERS: dict[Format, Reader] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "xml": read_xml,
    "yaml": read_yaml,
    "python": read_python,
    "lines": read_lines,
    "matrix": read_matrix,
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
}


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
        for record in READERS[_format(file.name, table)](file, table, tolerance):
            tolerance.read += 1
            records.append(_tidied(record, table))
        tolerance.settle()
        malformed += tolerance.malformed
    return records, malformed


def _fits(name: str, pattern: str) -> bool:
    """A pattern without a folder also fits the bare name, in whatever folder of an archive it lies."""
    return matches(name, pattern) or ("/" not in pattern and matches(re.split(r"[/!]", name)[-1], pattern))


def _format(name: str, table: Table) -> Format:
    if table.format != "auto":
        return table.format
    ending = PurePosixPath(name.removesuffix(".gz")).suffix
    if ending not in ENDINGS:
        raise DataError(
            f"{name}: cannot tell the format from its name; set format = one of {', '.join(READERS)}"
        )
    return ENDINGS[ending]


def _tidied(record: Record, table: Table) -> Record:
    for name, pattern in table.remove.items():
        value = record.get(name)
        if isinstance(value, str):
            record[name] = re.sub(pattern, "", value)
        elif isinstance(value, list):
            record[name] = [re.sub(pattern, "", v) if isinstance(v, str) else v for v in value]
    return record
