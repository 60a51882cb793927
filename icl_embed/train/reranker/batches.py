"""Which pairs meet in which step of the reranker's training, and its job as a file."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence

from icl_embed.config import RANKING_KINDS, RerankConfig
from icl_embed.errors import TrainingError
from icl_embed.train.job import Job
from icl_embed.train.rows import Row, TrainingSet


@dataclasses.dataclass(frozen=True)
class Group:
    """A query with its candidates, the positive first, and the teacher's scores of them: NaN where none."""

    query: str
    passages: tuple[str, ...]
    scores: tuple[float, ...]


def keep_ranking_sets(training_sets: Sequence[TrainingSet], *, batch_size: int) -> list[TrainingSet]:
    """The data sets that teach ranking, without rows that have nothing to rank.

    Raises
        TrainingError: no such data set can fill a batch.
    """
    kept, refused = [], []
    for training_set in training_sets:
        if training_set.kind not in RANKING_KINDS:
            continue
        found = training_set.num_with_negative
        if found < batch_size:
            refused.append(f"{training_set.name} ({found} rows with a hard negative)")
        else:
            kept.append(training_set.with_negatives())
    if not kept:
        raise TrainingError(
            f"no retrieval or reranking data set fills a batch of {batch_size} queries: "
            f"{', '.join(refused) or 'there is none'}; lower rerank.batch_size, or train on more data"
        )
    return kept


def draw_group(row: Row, batch: Sequence[Row], config: RerankConfig, *, seed: int, step: int) -> Group:
    """The row's positive, distinct hard negatives, and easy ones: positives of the batch's other queries."""
    rng = random.Random(f"{seed}:{step}:{row.query}:candidates")
    negatives = _negatives_of(row)
    hard = rng.sample(list(negatives), min(config.num_negatives, len(negatives)))
    taken = {row.positive, *hard}
    taken |= {other.positive for other in batch if other.query == row.query}
    others = [text for text in dict.fromkeys(other.positive for other in batch) if text not in taken]
    easy = rng.sample(others, min(config.num_easy_negatives, len(others)))
    known = {**negatives, row.positive: row.positive_score}
    passages = (row.positive, *hard, *easy)
    scores = (known.get(text) for text in passages)
    return Group(row.query, passages, tuple(math.nan if score is None else score for score in scores))


def has_teacher(batch: Sequence[Row]) -> bool:
    """Whether any positive of a batch over all ranks has a teacher's score: the same answer on every rank."""
    return any(row.positive_score is not None for row in batch)


def draw_width(config: RerankConfig, *, seed: int, step: int) -> tuple[int, tuple[int, ...]]:
    """Compression ratio and layers of a step, the same on every rank."""
    ratio = random.Random(f"{seed}:{step}:ratio").choice(list(config.compress_ratios_trained))
    layers = config.compress_layers
    if config.compress_subsets and layers:
        rng = random.Random(f"{seed}:{step}:layers")
        layers = tuple(sorted(rng.sample(layers, rng.randint(1, len(layers)))))
    return ratio, layers


def _negatives_of(row: Row) -> dict[str, float | None]:
    """Distinct negatives that are worth ranking, with the teacher's score."""
    scores = row.negative_scores or (None,) * len(row.negatives)
    found: dict[str, float | None] = {}
    for text, score in zip(row.negatives, scores, strict=True):
        if text.strip() and text != row.positive:
            found.setdefault(text, score)
    return found


class RerankerJob(Job):
    """Distil a lightweight reranker."""

    rerank: RerankConfig

    def counted(self, steps: int) -> RerankerJob:
        """This job now that its rows are known, and with them the steps that ``optimizer.epochs`` are."""
        optimizer = self.rerank.optimizer.counted(steps)
        return self.model_copy(update={"rerank": self.rerank.model_copy(update={"optimizer": optimizer})})
