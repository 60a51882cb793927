"""Which texts a query is scored against: a pure function of (seed, step, query)."""

from __future__ import annotations

import random
from dataclasses import dataclass

from icl_embed.train.batches import Batch
from icl_embed.train.rows import Row, TrainingSet
from icl_embed.train.rules import Rule
from icl_embed.train.shown import in_random_order

SHUFFLED_FROM = 100  # characters; shorter texts keep their order (reference code AbsDataset)


@dataclass(frozen=True)
class Candidate:
    """A passage of a query.

    Attributes
        text: what is encoded.
        source: the text as it is in the data, by which false negatives are found.
        score: the teacher's, if it gave one.
    """

    text: str
    source: str
    score: float | None = None


def draw_candidates(batch: Batch, row: Row, rule: Rule, *, text_shuffle: float, seed: int) -> list[Candidate]:
    """The positive, then the negatives: always 1 + ``rule.num_negatives``, so that ranks can exchange them.

    The exception is a batch of label texts with in-batch negatives, where the positive is enough. A row
    without any negative repeats its positive, which its own mask then hides.
    """
    rng = random.Random(f"{seed}:{batch.step}:{row.query}:negatives")
    if batch.targets_texts:
        text = draw_same_label(batch.training_set, row, seed=seed, step=batch.step)
        positive = Candidate(text, text)
        if rule.in_batch_negatives:
            return [positive]
        others = _texts_of_other_labels(batch.training_set, row, rule.num_negatives, rng)
        negatives = [Candidate(text, text) for text in others]
    else:
        positive = Candidate(row.positive, row.positive, row.positive_score)
        negatives = _given_negatives(row, rng)
    wanted = rule.num_negatives
    chosen = [(negatives or [positive])[number % max(1, len(negatives))] for number in range(wanted)]
    if text_shuffle and not batch.targets_labels:
        positive = _shuffled(
            positive, text_shuffle, random.Random(f"{seed}:{batch.step}:{row.query}:shuffle")
        )
    return [positive, *chosen]


def draw_same_label(training_set: TrainingSet, row: Row, *, seed: int, step: int) -> str:
    """Another text with the same label; the row's own text when it is the only one."""
    rng = random.Random(f"{seed}:{step}:{row.query}")
    positions = training_set.positions_by_label[row.label]
    for number in in_random_order(rng, len(positions)):
        text = training_set.rows[positions[number]].query
        if text != row.query:
            return text
    return row.query


def _given_negatives(row: Row, rng: random.Random) -> list[Candidate]:
    """All hard negatives of a row in random order."""
    scores = row.negative_scores or (None,) * len(row.negatives)
    pairs = list(zip(row.negatives, scores, strict=True))
    return [Candidate(text, text, score) for text, score in rng.sample(pairs, len(pairs))]


def _texts_of_other_labels(training_set: TrainingSet, row: Row, count: int, rng: random.Random) -> list[str]:
    texts: list[str] = []
    places = in_random_order(rng, len(training_set.rows))
    while len(texts) < count and (place := next(places, None)) is not None:
        other = training_set.rows[place]
        if other.label != row.label and other.query != row.query:
            texts.append(other.query)
    return texts


def _shuffled(candidate: Candidate, share: float, rng: random.Random) -> Candidate:
    """A long text with its three parts in random order, in the given share of cases."""
    text = candidate.text
    if len(text) <= SHUFFLED_FROM or rng.random() >= share:
        return candidate
    size = len(text) // 3 + 1
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    rng.shuffle(parts)
    return Candidate(" ".join(parts), candidate.source, candidate.score)
