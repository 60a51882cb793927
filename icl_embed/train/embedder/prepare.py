"""One step as token ids, cut into micro-batches: everything the model needs, made without the model.

A pure function of (seed, step, rank), free of tensors, so that worker processes can make it ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from icl_embed.config import SYMMETRIC_KINDS, Kind, TrainConfig
from icl_embed.errors import TrainingError
from icl_embed.examples import Example
from icl_embed.model.batching import Group
from icl_embed.prompts import PromptBuilder, Tokens
from icl_embed.train.embedder.batches import (
    Batch,
    Candidate,
    Rule,
    draw_candidates,
    make_batch,
    refuse_unusable,
    rule_of,
)
from icl_embed.train.embedder.examples import (
    Neighbours,
    draw_examples,
    draw_for_passages,
    draw_instruction,
    readers_of,
)
from icl_embed.train.plan import plan_steps
from icl_embed.train.rows import TrainingSet, text_hash


@dataclass(frozen=True)
class MicroBatch:
    """Groups for one forward pass, and which prompt each of their rows is."""

    groups: tuple[Group, ...]
    positions: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that are computed."""
        return sum(group.num_tokens for group in self.groups)


def plan_micro_batches(
    prompts: Sequence[Prompt], batch_tokens: int, *, share_prefixes: bool
) -> list[MicroBatch]:
    """Every prompt once, the longest first, so that too little memory shows at once and not at the end.

    Rows with the same prefix stay neighbours and compute it once per micro-batch.

    Parameters
        batch_tokens: upper limit of a micro-batch's tokens; a longer prompt is a micro-batch of its own.
        share_prefixes: whether a prefix may serve several rows (causal attention only).
    """
    batches: list[list[int]] = []
    filled = 0
    last: Prompt | None = None
    for position in _neighbours_together(prompts):
        prompt = prompts[position]
        shared = share_prefixes and last is not None and prompt.shared == last.shared
        cost = len(prompt.row) if shared else prompt.shared_tokens + len(prompt.row)
        if not batches or filled + cost > batch_tokens:
            batches.append([])
            filled, cost = 0, prompt.shared_tokens + len(prompt.row)
        batches[-1].append(position)
        filled += cost
        last = prompt
    return [_micro_batch(prompts, batch, share_prefixes) for batch in batches]


def repeat_shortest(batches: list[MicroBatch], count: int) -> list[MicroBatch]:
    """``count`` micro-batches: those given, then passes that only keep step with other ranks.

    ZeRO 2 and 3 exchange gradients and weights in every pass, so all ranks must make the same number of
    passes. A pass too many runs the shortest row again and belongs to no prompt.
    """
    shortest = min(
        (
            Group([row], group.prefix, group.demonstrations)
            for batch in batches
            for group in batch.groups
            for row in group.rows
        ),
        key=lambda group: group.num_tokens,
    )
    idle = MicroBatch((shortest,), ())
    return [*batches, *[idle] * (count - len(batches))]


def _neighbours_together(prompts: Sequence[Prompt]) -> list[int]:
    """Prompt numbers by falling length, those with one prefix in a row."""
    longest: dict[tuple[tuple[int, ...], ...], int] = {}
    for prompt in prompts:
        longest[prompt.shared] = max(longest.get(prompt.shared, 0), len(prompt.row))

    def place(position: int) -> tuple[int, tuple[tuple[int, ...], ...], int, int]:
        prompt = prompts[position]
        size = prompt.shared_tokens + longest[prompt.shared]
        return -size, prompt.shared, -len(prompt.row), position

    return sorted(range(len(prompts)), key=place)


def _micro_batch(prompts: Sequence[Prompt], positions: list[int], share_prefixes: bool) -> MicroBatch:
    groups: list[tuple[Prompt, list[list[int]]]] = []
    for position in positions:
        prompt = prompts[position]
        alike = share_prefixes or not prompt.prefix
        if not (groups and alike and groups[-1][0].shared == prompt.shared):
            groups.append((prompt, []))
        groups[-1][1].append(prompt.row)
    return MicroBatch(
        tuple(Group(rows, list(first.prefix), first.demonstrations) for first, rows in groups),
        tuple(positions),
    )


@dataclass(frozen=True)
class Prompt:
    """A sequence in two parts: a prefix that other rows may have as well, and a row of its own."""

    prefix: tuple[int, ...]
    row: Tokens
    demonstrations: tuple[tuple[int, ...], ...] = ()

    @property
    def shared(self) -> tuple[tuple[int, ...], ...]:
        """What rows of one group have in common; empty when they have nothing."""
        return (self.prefix, *self.demonstrations) if self.prefix else ()

    @property
    def shared_tokens(self) -> int:
        """Tokens of what is shared."""
        return sum(map(len, self.shared))


@dataclass(frozen=True)
class PreparedStep:
    """One rank's share of a step.

    Attributes
        prompts: the rank's queries, then its distinct passages.
        num_queries: how many of the prompts are queries.
        passage_of: for each candidate of each query of this rank, in order, the number of its passage.
        candidates: the candidates of every query of the whole batch, the positive first.
        query_hashes, label_hashes: of every row of the whole batch.
        rule: what the loss does with this kind of task.
        kind, queries: of the batch, for a teacher that reads texts.
        has_names: labels have arbitrary names in this step.
        num_examples, num_dropped: examples that the rank's queries were shown, and that found no room.
    """

    prompts: Sequence[Prompt]
    num_queries: int
    passage_of: Sequence[int]
    candidates: Sequence[Sequence[Candidate]]
    query_hashes: Sequence[int]
    label_hashes: Sequence[int]
    rule: Rule
    num_examples: int
    num_dropped: int
    kind: Kind
    queries: Sequence[str]
    has_names: bool = False


class StepBuilder:
    """Prepares any step of a training run, for one rank."""

    def __init__(
        self,
        prompts: PromptBuilder,
        training_sets: Sequence[TrainingSet],
        config: TrainConfig,
        *,
        seed: int,
        mine: tuple[int, int] = (0, 1),
    ) -> None:
        """Plan all steps.

        Parameters
            mine: this rank and the number of ranks.

        Raises
            TrainingError: a data set that cannot be trained on, or prompts without room for examples.
        """
        refuse_unusable(training_sets, config)
        _refuse_prompts_without_room(prompts, config)
        self._prompts = prompts
        self._training_sets = training_sets
        self._config = config
        self._seed = seed
        self._rank, self._ranks = mine
        self._neighbours: dict[str, Neighbours] = {}
        self._plan = plan_steps(
            training_sets,
            steps=config.optimizer.steps,
            batch_sizes=config.batch_sizes_of(one.kind for one in training_sets),
            seed=seed,
            by_rows=config.optimizer.epochs > 0,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """A batch worker plans anew and maps the rows itself: what goes to it are settings and a path."""
        rebuild = partial(type(self), seed=self._seed, mine=(self._rank, self._ranks))
        return rebuild, (self._prompts, self._training_sets, self._config)

    @property
    def num_steps(self) -> int:
        """Steps of the run."""
        return len(self._plan)

    def build(self, step: int) -> PreparedStep:
        """Prepare a step."""
        config = self._config
        batch = make_batch(self._training_sets, self._plan[step], step=step, config=config, seed=self._seed)
        rule = rule_of(config, batch.training_set.kind, targets_labels=batch.targets_labels)
        candidates = [
            draw_candidates(batch, row, rule, text_shuffle=config.text_shuffle, seed=self._seed)
            for row in batch.rows
        ]
        size = len(batch.rows) // self._ranks
        mine = range(self._rank * size, (self._rank + 1) * size)
        queries, num_examples, num_dropped = self._query_prompts(batch, mine, candidates)
        texts = [candidate.text for position in mine for candidate in candidates[position]]
        distinct = list(dict.fromkeys(texts))
        number_of = {text: number for number, text in enumerate(distinct)}
        passages = self._passage_prompts(batch, distinct, candidates)
        batch.training_set.rows.release()
        return PreparedStep(
            prompts=[*queries, *passages],
            num_queries=size,
            passage_of=[number_of[text] for text in texts],
            candidates=candidates,
            query_hashes=[text_hash(row.query) for row in batch.rows],
            label_hashes=[text_hash(row.label) for row in batch.rows],
            rule=rule,
            num_examples=num_examples,
            num_dropped=num_dropped,
            kind=batch.training_set.kind,
            queries=[row.query for row in batch.rows],
            has_names=bool(batch.names),
        )

    def _query_prompts(
        self, batch: Batch, mine: range, candidates: Sequence[Sequence[Candidate]]
    ) -> tuple[list[Prompt], int, int]:
        """Prompts of this rank's queries, each after the examples it is shown, and how many those are."""
        config = self._config.examples
        made: list[Prompt] = []
        num_examples = num_dropped = 0
        for readers in readers_of(mine, config):
            concerned = range(len(batch.rows)) if config.sharing == "per_batch" else readers
            hidden = {batch.rows[position].query for position in concerned}
            hidden |= {candidates[position][0].source for position in concerned}
            examples = draw_examples(
                batch,
                readers,
                config,
                hidden=hidden,
                seed=self._seed,
                neighbours=self._neighbours_of(batch.training_set) if config.mode == "nearest" else None,
            )
            instruction = draw_instruction(batch, readers, config, examples, seed=self._seed)
            prefix = self._prompts.prefix(instruction, examples)
            _check_examples_used(examples, prefix.num_examples, prefix.num_dropped)
            num_examples += prefix.num_examples * len(readers)
            num_dropped += prefix.num_dropped * len(readers)
            tails = self._prompts.query_tails(
                instruction, [batch.rows[position].query for position in readers]
            )
            made.extend(Prompt(tuple(prefix.tokens), tail, prefix.demonstrations) for tail in tails)
        return made, num_examples, num_dropped

    def _neighbours_of(self, training_set: TrainingSet) -> Neighbours:
        if training_set.name not in self._neighbours:  # made where it is used: a worker process has its own
            self._neighbours[training_set.name] = Neighbours(training_set, self._seed)
        return self._neighbours[training_set.name]

    def _passage_prompts(
        self, batch: Batch, texts: Sequence[str], candidates: Sequence[Sequence[Candidate]]
    ) -> list[Prompt]:
        """Texts of symmetric tasks as the queries they are at inference (paper section 3.3).

        Label texts and passages stay raw.
        """
        if batch.training_set.kind not in SYMMETRIC_KINDS or batch.targets_labels:
            return [Prompt((), tokens) for tokens in self._prompts.passages(texts)]
        instruction = batch.training_set.instruction
        hidden = {row.query for row in batch.rows} | {one.source for row in candidates for one in row}
        examples = draw_for_passages(batch, self._config.examples, hidden=hidden, seed=self._seed)
        prefix = self._prompts.prefix(instruction, examples)
        head = tuple(prefix.tokens)
        tails = self._prompts.query_tails(instruction, texts)
        return [Prompt(head, tail, prefix.demonstrations) for tail in tails]


def _check_examples_used(examples: Sequence[Example], used: int, dropped: int) -> None:
    if used + dropped != len(examples):
        raise TrainingError(f"{len(examples)} examples were drawn, {used} used and {dropped} dropped")


def _refuse_prompts_without_room(prompts: PromptBuilder, config: TrainConfig) -> None:
    """The reference trains without any example at its own documented settings; we refuse to start."""
    examples, budgets = config.examples, prompts.budgets
    if examples.wanted and budgets.total_tokens <= budgets.query_tokens:
        raise TrainingError(
            f"prompt.total_tokens ({budgets.total_tokens}) leaves no room for examples beside "
            f"prompt.query_tokens ({budgets.query_tokens}), but train.examples asks for up to "
            f"{examples.wanted}; raise total_tokens or set examples.mode = none"
        )
