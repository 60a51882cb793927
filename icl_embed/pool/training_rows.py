"""The training side of one data set, row by row, as the pool kept it: nothing that an evaluation looks at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icl_embed.config import Kind
from icl_embed.errors import PoolError
from icl_embed.pool.database import DATABASE_NAME, fetch_all, open_read_only, read_script


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
