"""Files of (query, passage) pairs: ``.jsonl`` objects with both, or ``.tsv`` lines of two columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_embed.errors import DataError
from icl_embed.store.files import write_atomically

SUFFIXES = (".jsonl", ".tsv")


@dataclass(frozen=True)
class PairLine:
    """One pair; ``fields`` is everything that its line holds."""

    query: str
    passage: str
    fields: dict[str, Any]


def read_pairs(path: Path) -> list[PairLine]:
    """The pairs of a file, in its order.

    Raises
        DataError: another ending, an unreadable file, or a line that is no pair; names the line.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"--input must end in .jsonl or .tsv, found {path.name}")
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {number}: not UTF-8 ({error.reason})") from error
    lines = text.split("\n")  # splitlines would also cut at rare characters inside a text
    numbered = [(number, line.removesuffix("\r")) for number, line in enumerate(lines, start=1)]
    read = _json_pair if path.suffix == ".jsonl" else _tab_pair
    pairs = [read(f"{path}, line {number}", line) for number, line in numbered if line.strip()]
    if not pairs:
        raise DataError(f"{path} holds no pair; expected one per line")
    return pairs


def write_scored(
    path: Path, pairs: Sequence[PairLine], scores: Sequence[float], probabilities: Sequence[float] = ()
) -> None:
    """Write each pair's line as a JSON object with its ``score``, in the order of the pairs.

    Parameters
        probabilities: of each pair; written as ``probability`` if there are any.

    Raises
        StoreError: the disk refused.
    """
    rows = [{**pair.fields, "score": score} for pair, score in zip(pairs, scores, strict=True)]
    for row, probability in zip(rows, probabilities, strict=False):
        row["probability"] = probability
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, text.encode())


def _json_pair(where: str, line: str) -> PairLine:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    query, passage = (fields.get(name) if isinstance(fields, dict) else None for name in ("query", "passage"))
    if not _is_pair(query, passage):
        raise DataError(f'{where}: expected {{"query": "…", "passage": "…"}}, found {line[:80]}')
    return PairLine(str(query), str(passage), fields)


def _tab_pair(where: str, line: str) -> PairLine:
    columns = line.split("\t")
    if len(columns) != 2 or not _is_pair(*columns):
        raise DataError(f"{where}: expected a query and a passage, found {len(columns)} columns: {line[:80]}")
    return PairLine(columns[0], columns[1], {"query": columns[0], "passage": columns[1]})


def _is_pair(query: Any, passage: Any) -> bool:
    """A passage may be blank: it is scored as such."""
    return isinstance(query, str) and bool(query.strip()) and isinstance(passage, str)
