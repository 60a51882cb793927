"""What the rows of a step are, and against what they stand: pure functions of the seed."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import ascii_uppercase

from icl_embed.config import LABEL_KINDS, RANKING_KINDS, Kind, KindRule, TrainConfig
from icl_embed.config.training import MIN_EXPLAINED
from icl_embed.errors import TrainingError
from icl_embed.train.plan import Planned
from icl_embed.train.rows import Row, TrainingSet

logger = logging.getLogger(__name__)

HALF = 0.5  # of the batches of a data set
NAMES = [first + second for first in ascii_uppercase for second in ascii_uppercase]


@dataclass(frozen=True)
class Rule:
    """A kind's rule with every blank filled in (see ``KindRule``)."""

    num_negatives: int
    in_batch_negatives: bool
    distil: bool


def rule_of(config: TrainConfig, kind: Kind, *, targets_labels: bool) -> Rule:
    """The rule of one batch.

    Where labels are the targets, in-batch negatives are off unless asked for (paper section 3.3): few
    labels make a batch, and the hard negatives already are the other labels.
    """
    given = config.kinds.get(kind, KindRule())
    return Rule(
        num_negatives=config.num_negatives if given.num_negatives is None else given.num_negatives,
        in_batch_negatives=not targets_labels
        if given.in_batch_negatives is None
        else given.in_batch_negatives,
        distil=kind in RANKING_KINDS if given.distil is None else given.distil,
    )


def refuse_unusable(training_sets: Sequence[TrainingSet], config: TrainConfig) -> None:
    """Check every data set before the first step.

    Raises
        TrainingError: a data set too small to fill a batch (and, where a batch shares its examples, to leave
            some), or of a label kind without labels; the message names it.
    """
    examples = config.examples
    draws_outside = examples.mode == "in_batch" and examples.sharing == "per_batch" and examples.wanted
    for training_set in training_sets:
        batch_size, found = config.batch_size_of(training_set.kind), len(training_set.rows)
        if found < batch_size:
            raise TrainingError(
                f"data set {training_set.name} has {found} training rows, fewer than a batch of "
                f"{batch_size}; lower train.batch_size or move it from data.train to data.evaluate"
            )
        if draws_outside and found == batch_size:
            raise TrainingError(
                f"data set {training_set.name} has {found} training rows, all in every batch: none is left "
                "to be a shared example; lower train.batch_size or use examples.sharing = per_query"
            )
        if training_set.kind in LABEL_KINDS and "" in training_set.positions_by_label:
            raise TrainingError(
                f"data set {training_set.name} is of the kind {training_set.kind}, but has rows without "
                "a label; map a label in its card or give it another kind"
            )


def refuse_nothing_to_learn(training_sets: Sequence[TrainingSet], config: TrainConfig) -> None:
    """Say which rows cannot teach anything, before the model is loaded.

    Raises
        TrainingError: no row of any data set can have a negative.
    """
    teaches = False
    for training_set in training_sets:
        found = len(training_set.rows)
        silent = _rows_without_negative(training_set, config)
        teaches |= silent < found
        if silent:
            logger.warning(
                "warning: %d of %d rows of %s can have no negative and teach nothing%s",
                silent, found, training_set.name, _why(training_set),
            )  # fmt: skip
        _warn_of_one_label(training_set, config)
    if not teaches:
        names = ", ".join(f"{one.name}{_why(one)}" for one in training_sets)
        raise TrainingError(
            f"nothing can be learned: no row of {names} can have a negative, so every loss would be 0; add "
            "data with several labels or several positives, mine negatives, or raise train.num_negatives"
        )


def _rows_without_negative(training_set: TrainingSet, config: TrainConfig) -> int:
    """How many rows no other row, label or mined text can be a negative of."""
    is_labelled = training_set.kind in LABEL_KINDS
    if is_labelled and len(training_set.positions_by_label) > 1:
        return 0  # texts of other labels can always be drawn
    rule = rule_of(config, training_set.kind, targets_labels=is_labelled)
    targets_texts = is_labelled and config.label_target_of(training_set.kind) == "text"
    uses_given = rule.num_negatives > 0 and not targets_texts
    if not is_labelled and rule.in_batch_negatives and _batch_has_others(training_set, config):
        return 0
    return len(training_set.rows) - (training_set.num_with_negative if uses_given else 0)


def _batch_has_others(training_set: TrainingSet, config: TrainConfig) -> bool:
    """Whether two rows can meet that have neither query nor positive in common."""
    first = training_set.rows[0]
    return config.batch_size_of(training_set.kind) > 1 and any(
        row.positive != first.positive and row.query != first.query for row in training_set.rows
    )


def _warn_of_one_label(training_set: TrainingSet, config: TrainConfig) -> None:
    """Texts of one label are no negatives of each other, and a batch of one label has no others."""
    groups = training_set.positions_by_label
    if training_set.kind not in LABEL_KINDS or len(groups) < 2:
        return
    label, count = max(((label, len(rows)) for label, rows in groups.items()), key=lambda one: one[1])
    others = config.batch_size_of(training_set.kind) - 1
    if (count / len(training_set.rows)) ** others > HALF:
        logger.warning(
            "warning: %d of %d rows of %s have the label %r, so most batches have no other, and steps "
            "that compare texts (train.label_target) teach next to nothing; balance the labels",
            count, len(training_set.rows), training_set.name, label,
        )  # fmt: skip


def _why(training_set: TrainingSet) -> str:
    if training_set.kind not in LABEL_KINDS or len(training_set.positions_by_label) != 1:
        return ""
    return f" (all have the label {next(iter(training_set.positions_by_label))!r})"


@dataclass(frozen=True)
class Batch:
    """The rows of one step over all ranks."""

    step: int
    training_set: TrainingSet
    rows: tuple[Row, ...]
    targets_labels: bool  # label tasks only: the positive is the label's text, not another text of the label
    names: Mapping[str, str] = field(default_factory=dict)  # label -> its arbitrary name, if it was given one

    @property
    def targets_texts(self) -> bool:
        """Whether the positive of a row is another text of its label."""
        return self.training_set.kind in LABEL_KINDS and not self.targets_labels


def make_batch(
    training_sets: Sequence[TrainingSet],
    planned: Planned,
    *,
    step: int,
    config: TrainConfig,
    seed: int,
) -> Batch:
    """The batch of one planned step."""
    chosen, numbers = planned
    training_set = training_sets[chosen]
    is_labelled = training_set.kind in LABEL_KINDS
    target = config.label_target_of(training_set.kind)
    targets_labels = is_labelled and (target == "label" or (target == "mixed" and step % 2 == 0))
    batch = Batch(step, training_set, tuple(training_set.rows[number] for number in numbers), targets_labels)
    rng = random.Random(f"{seed}:{step}:names")
    if is_labelled and rng.random() < config.examples.arbitrary_names:
        return _rename_labels(batch, config.examples.wanted, rng)
    return batch


def _rename_labels(batch: Batch, most: int, rng: random.Random) -> Batch:
    """The batch with a few labels under arbitrary names, so few that examples can explain them all.

    Rows of other labels give way to rows of these.
    """
    positions, rows = batch.training_set.positions_by_label, batch.training_set.rows
    if len(positions) < MIN_EXPLAINED:
        return batch
    count = rng.randint(MIN_EXPLAINED, max(MIN_EXPLAINED, min(most, len(positions))))
    present = list(dict.fromkeys(row.label for row in batch.rows))
    absent = [label for label in positions if label not in set(present)]
    labels = [*rng.sample(present, min(count, len(present))), *absent[: max(0, count - len(present))]]
    names = dict(zip(labels, rng.sample(NAMES, len(labels)), strict=True))

    def renamed(row: Row) -> Row:
        if row.label not in names:
            row = rows[rng.choice(positions[rng.choice(labels)])]
        name = names[row.label]
        others = tuple(other for other in names.values() if other != name)
        return replace(row, positive=name, response=name, negatives=others, negative_scores=())

    return replace(batch, rows=tuple(map(renamed, batch.rows)), names=names)


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
        text = training_set.rows.query(positions[number])
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
    rows = training_set.rows
    places = in_random_order(rng, len(rows))
    while len(texts) < count and (place := next(places, None)) is not None:
        if rows.label(place) != row.label and (text := rows.query(place)) != row.query:
            texts.append(text)
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


def in_random_order(rng: random.Random, size: int) -> Iterator[int]:
    """The numbers below ``size`` in random order; the first few cost nothing however many there are."""
    moved: dict[int, int] = {}  # a Fisher-Yates shuffle that remembers only the places it has touched
    for left in range(size, 0, -1):
        chosen = rng.randrange(left)
        yield moved.get(chosen, chosen)
        moved[chosen] = moved.get(left - 1, left - 1)
