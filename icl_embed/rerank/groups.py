"""Which pairs meet in which step: a positive and its negatives per query, a pure function of the seed."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

from icl_embed.config import RANKING_KINDS, RerankConfig
from icl_embed.errors import TrainingError
from icl_embed.train.batches import plan_steps
from icl_embed.train.rows import Row, TrainingSet, read_training_sets


@dataclasses.dataclass(frozen=True)
class Group:
    """A query with its candidates; the positive comes first."""

    query: str
    passages: tuple[str, ...]


def read_ranking_sets(path: Path, *, batch_size: int) -> list[TrainingSet]:
    """The data sets of ``train.parquet`` that teach ranking, without rows that have nothing to rank.

    Raises
        TrainingError: no such data set can fill a batch.
    """
    kept, refused = [], []
    for training_set in read_training_sets(path):
        if training_set.kind not in RANKING_KINDS:
            continue
        rows = [row for row in training_set.rows if _negatives_of(row)]
        if len(rows) < batch_size:
            refused.append(f"{training_set.name} ({len(rows)} rows with a hard negative)")
        else:
            kept.append(dataclasses.replace(training_set, rows=rows))
    if not kept:
        raise TrainingError(
            f"no retrieval or reranking data set fills a batch of {batch_size} queries: "
            f"{', '.join(refused) or 'there is none'}; lower rerank.batch_size, or train on more data"
        )
    return kept


def plan_groups(
    training_sets: Sequence[TrainingSet], *, steps: int, batch_size: int, seed: int
) -> list[list[Row]]:
    """The rows of every step over all ranks; one data set per step."""
    plan = plan_steps(training_sets, steps=steps, batch_sizes=[batch_size] * len(training_sets), seed=seed)
    return [[training_sets[chosen].rows[number] for number in numbers] for chosen, numbers in plan]


def draw_group(row: Row, batch: Sequence[Row], config: RerankConfig, *, seed: int, step: int) -> Group:
    """The row's positive, distinct hard negatives, and easy ones: positives of the batch's other queries."""
    rng = random.Random(f"{seed}:{step}:{row.query}:candidates")
    negatives = _negatives_of(row)
    hard = rng.sample(negatives, min(config.num_negatives, len(negatives)))
    taken = {row.positive, *hard}
    taken |= {other.positive for other in batch if other.query == row.query}
    others = [text for text in dict.fromkeys(other.positive for other in batch) if text not in taken]
    easy = rng.sample(others, min(config.num_easy_negatives, len(others)))
    return Group(row.query, (row.positive, *hard, *easy))


def draw_ratio(ratios: Sequence[int], *, seed: int, step: int) -> int:
    """The compression ratio of a step, the same on every rank."""
    return random.Random(f"{seed}:{step}:ratio").choice(list(ratios))


def _negatives_of(row: Row) -> list[str]:
    return [text for text in dict.fromkeys(row.negatives) if text.strip() and text != row.positive]
