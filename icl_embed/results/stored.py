"""Scores as the database holds them, and the measurements behind them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icl_embed.config import Kind
from icl_embed.evaluate.measurement import Aggregation, Measured, Measurement, average_over_seeds
from icl_embed.results.database import rows

_SEED = re.compile(r" seed \d+")


@dataclass(frozen=True)
class StoredScore:
    """One row of the table ``scores``: one model, task and setting of one artefact."""

    reference: str
    task: str
    family: str
    kind: Kind
    metric: str
    aggregation: Aggregation
    model: str
    model_fingerprint: str
    setting: str
    mean: float
    low: float
    high: float
    num_items: int
    query_tokens_mean: float | None
    trained_on: bool
    data_fingerprint: str
    created: str
    git_commit: str

    @property
    def setting_of_all_seeds(self) -> str:
        """The setting without the seed of its examples: ``5-shot`` for ``5-shot seed 2``."""
        return _SEED.sub("", self.setting)


_COLUMNS = ", ".join(StoredScore.__dataclass_fields__)


def read_stored(path: Path, *, all_times: bool = False) -> list[StoredScore]:
    """The scores of a database, oldest first.

    Parameters
        all_times: also those that a newer artefact of the same model, task and setting replaces.
    """
    found = [StoredScore(*row) for row in rows(path, f"SELECT {_COLUMNS} FROM scores ORDER BY ALL")]  # noqa: S608
    found.sort(key=lambda score: (score.created, score.reference))
    if all_times:
        return found
    return list({(one.model_fingerprint, one.model, one.task, one.setting): one for one in found}.values())


def read_measured(path: Path, seeds: Sequence[StoredScore]) -> Measured:
    """The measurement of a score, averaged over the draws of examples if there are several.

    Raises
        EvaluationError: the draws were not measured on the same items.
    """
    return average_over_seeds([_read_measurement(path, score) for score in seeds])


def _read_measurement(path: Path, score: StoredScore) -> Measurement:
    query = (
        "SELECT item_id, value, target FROM item_values WHERE reference = ? AND setting = ? ORDER BY position"
    )
    items = rows(path, query, [score.reference, score.setting])
    names, values, targets = zip(*items, strict=True) if items else ((), (), ())
    return Measurement(score.task, score.aggregation, names, values, None if None in targets else targets)
