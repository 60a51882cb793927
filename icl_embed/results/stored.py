"""Scores as the database holds them, and the measurements behind them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
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


def read_measured(path: Path, groups: Sequence[Sequence[StoredScore]]) -> list[Measured]:
    """One measurement per group, averaged over its draws of examples if there are several.

    Raises
        EvaluationError: the draws of a group were not measured on the same items.
    """
    found = _read_measurements(path, [score for seeds in groups for score in seeds])
    return [average_over_seeds([found[one.reference, one.setting] for one in seeds]) for seeds in groups]


_ITEMS = """
SELECT reference, setting, item_id, value, target
FROM item_values JOIN (SELECT unnest(?) AS reference, unnest(?) AS setting) USING (reference, setting)
ORDER BY reference, setting, position
"""


def _read_measurements(path: Path, scores: Sequence[StoredScore]) -> dict[tuple[str, str], Measurement]:
    wanted = {(score.reference, score.setting): score for score in scores}
    references, settings = zip(*wanted, strict=True)
    items = rows(path, _ITEMS, [list(references), list(settings)])
    found = {}
    for key, members in groupby(items, key=lambda item: item[:2]):
        _, _, names, values, targets = zip(*members, strict=True)
        score, gold = wanted[key], None if None in targets else targets
        found[key] = Measurement(score.task, score.aggregation, names, values, gold)
    return found
