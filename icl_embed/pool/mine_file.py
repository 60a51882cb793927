"""Hard negatives for the rows of a file: FlagEmbedding's form in and out, mined as a pool's are.

A row is ``{"query": …, "pos": […], "neg": […]}`` (or ``anchor``, ``positive``, ``negative``, also numbered
as ``negative_1``; one text or a list). Whatever else it has stays, but for scores of negatives that it has
no longer. The file is read twice, line by line; between, its passages are held once each, and of its rows
numbers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from icl_embed.errors import DataError
from icl_embed.model.text_files import read_json_lines, stream_texts
from icl_embed.pool.mining import Miner
from icl_embed.pool.mining_task import BATCH_ROWS, Lists, Task, Texts, make_task
from icl_embed.store.files import written_atomically
from icl_embed.texts import compared_form

NAMES = {"query": ("query", "anchor"), "pos": ("pos", "positive"), "neg": ("neg", "negative")}
NUMBERED = re.compile(r"negative_\d+")  # sentence-transformers writes a column for each
SCORES = ("pos_scores", "neg_scores")  # a teacher's, one per passage
DIGEST_BYTES = 16


@dataclass(frozen=True)
class FileRow:
    """One line of the file.

    Attributes
        rest: whatever else the line has.
    """

    query: str
    positives: list[str]
    negatives: list[str]
    rest: dict[str, Any]


def read_rows(path: Path) -> Iterator[FileRow]:
    """The rows of a ``.jsonl`` file.

    Raises
        DataError: the file cannot be read, or a line is no such row; names the line.
    """
    for number, value in read_json_lines(path):
        where = f"{path}, line {number}"
        if not isinstance(value, dict):
            raise DataError(f'{where}: expected {{"query": …, "pos": […]}}, found {str(value)[:60]}')
        names = {key: next((name for name in NAMES[key] if name in value), "") for key in NAMES}
        for key in ("query", "pos"):
            if not names[key]:
                raise DataError(
                    f"{where}: expected {' or '.join(NAMES[key])}, found the keys {sorted(value)}"
                )
        query = value.pop(names["query"])
        if not isinstance(query, str) or not query.strip():
            raise DataError(f"{where}: {names['query']} should be a text that is not blank, found {query!r}")
        positives = _texts(value.pop(names["pos"]), f"{where}: {names['pos']}")
        negatives = _texts(value.pop(names["neg"], []), f"{where}: {names['neg']}")
        for name in filter(NUMBERED.fullmatch, list(value)):
            negatives += _texts(value.pop(name), f"{where}: {name}")
        if not positives:
            raise DataError(f"{where}: {names['pos']} is empty; a row needs a positive, or leave it out")
        yield FileRow(query, positives, negatives, value)


def mine_file(
    rows_path: Path,
    output: Path,
    miner: Miner,
    *,
    corpus: Path | None = None,
    keep_given: bool = False,
    instruction: str = "",
) -> dict[str, Any]:
    """Write the rows of a file with mined negatives, atomically.

    Parameters
        corpus: a file of candidates, beside the positives; default: all positives and negatives of the rows.
        keep_given: negatives that a row has stay and come first; else mined ones take their place.
        instruction: of the queries, where the model takes one.

    Returns
        counts of what happened to candidates.

    Raises
        DataError: a file is not what it should be; names file and line.
        ModelError, EvaluationError: a vector cannot be used.
        StoreError: the disk refused.
    """
    task = read_task(rows_path, corpus, keep_given=keep_given, instruction=instruction)
    mined, counts = miner.mine(task)
    with written_atomically(output) as handle:
        for row, places in zip(read_rows(rows_path), mined, strict=True):
            given = row.negatives if keep_given else []
            negatives = given + [task.passages[place] for place in places[places >= 0]]
            rest = {name: value for name, value in row.rest.items() if name not in SCORES}
            line = {"query": row.query, "pos": row.positives, "neg": negatives, **rest}
            handle.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    return counts


def read_task(rows_path: Path, corpus: Path | None, *, keep_given: bool, instruction: str) -> Task:
    """What is mined from: the rows' queries, each with its first positive; the others are related to it.

    Raises
        DataError: as ``mine_file``.
    """
    passages, queries, rows = _Passages(), _Column(), _Numbers()
    for text in stream_texts(corpus) if corpus else ():
        passages.add(text)
    for row in read_rows(rows_path):
        positives = [passages.add(text) for text in row.positives]
        # without a corpus negatives are candidates; with one they are known only if it holds them
        add = passages.find if corpus else passages.add
        negatives = [place for place in map(add, row.negatives) if place >= 0]
        queries.add(row.query)
        rows.add(positives, negatives if keep_given else [], len(row.negatives) if keep_given else 0)
    if not rows.first:
        raise DataError(f"{rows_path} has no rows")
    texts, keys = passages.column.finished(), passages.keys.finished()
    query_texts = queries.finished()
    owners, related = rows.related.arrays()
    query_keys = query_texts.compared()
    return make_task(
        "rows",
        "retrieval",
        instruction,
        passages=(texts, keys),
        pair_ids=Texts([pa.array([f"{number:012d}" for number in range(len(query_texts))])]),
        pairs=(query_texts, np.array(rows.first, np.int64)),
        given=Lists.grouped(*rows.given.arrays(), len(query_texts)),
        num_given=np.array(rows.num_given, np.int64),
        relations=(
            (query_keys.column.take(owners[part]), keys.column.take(related[part]))
            for part in (slice(start, start + BATCH_ROWS) for start in range(0, len(owners), BATCH_ROWS))
        ),
    )


@dataclass
class _Column:
    """Texts on their way into Arrow."""

    parts: list[pa.Array] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, text: str) -> None:
        self.count += 1
        self.waiting.append(text)
        if len(self.waiting) >= BATCH_ROWS:
            self._pack()

    def finished(self) -> Texts:
        self._pack()
        return Texts(self.parts)

    def _pack(self) -> None:
        self.parts.append(pa.array(self.waiting, pa.large_string()))
        self.waiting = []


@dataclass
class _Passages:
    """Distinct passages, known by a digest of their match keys."""

    column: _Column = field(default_factory=_Column)
    keys: _Column = field(default_factory=_Column)
    places: dict[bytes, int] = field(default_factory=dict)

    def find(self, text: str) -> int:
        return self.places.get(_digest(compared_form(text)), -1)

    def add(self, text: str) -> int:
        """Its place; -1 for a blank text, which is no candidate."""
        key = compared_form(text)
        if not key:
            return -1
        place = self.places.setdefault(_digest(key), len(self.places))
        if place == self.column.count:
            self.column.add(text)
            self.keys.add(key)
        return place


@dataclass
class _Owned:
    """Positions and whose they are."""

    owners: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    def add(self, owner: int, places: Sequence[int]) -> None:
        self.owners += [owner] * len(places)
        self.places += places

    def arrays(self) -> tuple[Any, Any]:
        return np.array(self.owners, np.int64), np.array(self.places, np.int64)


@dataclass
class _Numbers:
    """What is kept of rows."""

    first: list[int] = field(default_factory=list)
    num_given: list[int] = field(default_factory=list)
    related: _Owned = field(default_factory=_Owned)
    given: _Owned = field(default_factory=_Owned)

    def add(self, positives: Sequence[int], given: Sequence[int], num_given: int) -> None:
        row = len(self.first)
        self.first.append(positives[0])
        self.num_given.append(num_given)
        self.related.add(row, positives)
        self.given.add(row, given)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


def _texts(value: Any, where: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where} should be a text or a list of texts, found {str(value)[:60]}")
    blank = next((text for text in texts if not compared_form(text)), None)
    if blank is not None:
        raise DataError(f"{where} holds a blank text, {blank!r}; leave it out")
    return texts
