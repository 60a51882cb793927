"""What goes through the model at once: prompts of about equal length, up to a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from icl_embed.model.groups import Group
from icl_embed.train.prepare import Prompt


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
