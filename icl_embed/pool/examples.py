"""Few-shot examples that a pool holds for a task, and the training side that they come from.

Eligibility (train split only, nothing that an evaluation looks at, short enough) was settled when the pool
was built. Here a seed picks among the eligible ones, so another seed is another honest draw.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icl_embed.config import LABEL_KINDS, Kind
from icl_embed.errors import PoolError
from icl_embed.examples import Example
from icl_embed.pool.database import DATABASE_NAME, fetch_all, open_read_only, read_script
from icl_embed.store import Store
from icl_embed.texts import compared_forms

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An example that may be shown; ``label`` is its class, "" for kinds that answer with free text."""

    example: Example
    label: str


def choose_examples(
    pool_dir: Path, dataset: str, count: int, seed: int, *, exclude_texts: Sequence[str] = ()
) -> list[Example]:
    """Draw examples for a data set; for label kinds every label comes once before any comes twice.

    Parameters
        pool_dir: pool artefact.
        dataset: name of a data set of the pool, trained or evaluated only.
        count: how many; fewer are returned (with a warning) if fewer are eligible.
        seed: another seed, another draw.
        exclude_texts: neither query nor response may equal one of these, up to case and white space.

    Raises
        PoolError: no such pool or data set, or not one eligible example.
    """
    eligible = eligible_examples(pool_dir, dataset, exclude_texts=exclude_texts)
    if len(eligible) < count:
        logger.warning(
            "data set %s has %d eligible examples, %d were asked for", dataset, len(eligible), count
        )
    return [candidate.example for candidate in in_drawn_order(eligible, dataset, seed)[:count]]


def eligible_examples(pool_dir: Path, dataset: str, *, exclude_texts: Sequence[str] = ()) -> list[Candidate]:
    """Everything that may be shown for a data set, in the pool's order.

    Raises
        PoolError: no such pool or data set, or not one eligible example.
    """
    rows = _read_examples(pool_dir, dataset)
    excluded = set(compared_forms(exclude_texts))
    banned = [
        {query, response} & excluded
        for query, response in zip(
            compared_forms([row["query"] for row in rows]),
            compared_forms([row["response"] for row in rows]),
            strict=True,
        )
    ]
    eligible = [row for row, hits in zip(rows, banned, strict=True) if not hits]
    if not eligible:
        raise PoolError(
            f"data set {dataset}: no eligible example among {len(rows)} "
            f"({len(excluded)} texts were excluded); evaluate it zero-shot, or give it a training split"
        )
    return [
        Candidate(
            Example(query=row["query"], response=row["response"]),
            row["response"] if row["kind"] in LABEL_KINDS else "",
        )
        for row in eligible
    ]


def in_drawn_order(candidates: Iterable[Candidate], dataset: str, seed: int) -> list[Candidate]:
    """Candidates in hash order, one label after the other; labels in hash order too."""
    salt = f"{seed}:{dataset}"
    by_label: dict[str, list[Candidate]] = {}
    for one in sorted(candidates, key=lambda one: _draw(salt, one.example.query, one.example.response)):
        by_label.setdefault(one.label, []).append(one)
    turns = zip_longest(
        *(by_label[label] for label in sorted(by_label, key=lambda label: _draw(salt, label)))
    )
    return [one for one in chain.from_iterable(turns) if one is not None]


def latest_pool(store_root: Path) -> Path:
    """Folder of the pool that was published last.

    Raises
        PoolError: the store holds no pool.
    """
    pool = Store(store_root).newest("pool")
    if pool is None:
        raise PoolError(f"the store {store_root} holds no pool; build one with the flow build-pool")
    return pool.path


def _read_examples(pool_dir: Path, dataset: str) -> list[Mapping[str, Any]]:
    path = pool_dir / "examples.parquet"
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise PoolError(f"there is no pool at {pool_dir}; build one with the flow build-pool") from error
    except (pa.ArrowException, OSError) as error:
        raise PoolError(f"{path} is damaged: {error}; build the pool again") from error
    rows: list[Mapping[str, Any]] = table.filter(pc.field("dataset") == dataset).to_pylist()
    if not rows:
        known = sorted(set(table.column("dataset").to_pylist()))
        near = difflib.get_close_matches(dataset, known, n=1, cutoff=0.0)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise PoolError(
            f"the pool has no eligible example for the data set {dataset!r}{hint} "
            f"It has examples for: {', '.join(known) or 'none'}"
        )
    return rows


def _draw(salt: str, *texts: str) -> str:
    return hashlib.blake2b("\0".join([salt, *texts]).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One row of the train split with what survived the pool's rules.

    Attributes
        row_id: its name in the data set.
        query: the query, or the text that has a label.
        positives: passages, the second text of a pair, or the label's text.
        negatives: passages that the source calls wrong for the query.
        score: gold similarity of sts and pair_classification rows.
    """

    row_id: str
    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    score: float | None


@dataclass(frozen=True, slots=True)
class TrainingSide:
    """All kept rows of a data set's train split, in the order of their names."""

    dataset: str
    kind: Kind
    instruction: str
    rows: tuple[TrainingRow, ...]


def read_training_side(pool_dir: Path, dataset: str) -> TrainingSide:
    """Read the kept rows of a data set's train split, trained on or not.

    Raises
        PoolError: no such pool or data set, no row was kept, or a kept row belongs to another split or shows
            an evaluated text (the pool was not built by its own rules).
    """
    with open_read_only(pool_dir / DATABASE_NAME) as connection:
        found = fetch_all(connection, "SELECT kind, instruction FROM sources WHERE dataset = ?", [dataset])
        if not found:
            raise PoolError(f"the pool {pool_dir} has no data set {dataset!r}")
        rows = fetch_all(connection, read_script("training_side"), [dataset])
    tainted = [name for name, *_, is_evaluated in rows if is_evaluated]
    if tainted:
        raise PoolError(
            f"{dataset}: row {tainted[0]} of the pool is not of the train split or shows an evaluated text "
            f"({len(tainted)} such rows); build the pool again"
        )
    if not rows:
        raise PoolError(f"{dataset}: the pool kept no row of its train split")
    kept = (
        TrainingRow(name, query, tuple(positives), tuple(negatives), score)
        for name, query, positives, negatives, score, _ in rows
    )
    return TrainingSide(dataset, found[0][0], found[0][1], tuple(kept))
