"""What the scores of a step should become: each query's positive, who is no negative, what the teacher says.

Legend of tensor shapes: Q queries of this rank, P passages that are scored (of all ranks, or of this one),
G candidates per query.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from icl_embed.train.loss import mask_false_negatives
from icl_embed.train.prepare import PreparedStep
from icl_embed.train.rows import text_hash


@dataclass(frozen=True)
class Targets:
    """The answers to one rank's scores [Q, P].

    Attributes
        positive: [Q] column of each query's positive.
        masked: [Q, P] passages that must not count as negatives.
        own: [Q, G] columns of each query's own candidates, the positive first.
        teacher: [Q, G] the teacher's scores of those, NaN where there is none; None to distil nothing.
    """

    positive: Tensor
    masked: Tensor
    own: Tensor
    teacher: Tensor | None


def make_targets(step: PreparedStep, mine: range, *, all_ranks: bool, device: torch.device) -> Targets:
    """Targets of the queries ``mine`` (positions in the batch).

    Parameters
        all_ranks: whether the scored passages are those of the whole batch, or of ``mine`` alone.
    """
    scored = range(len(step.candidates)) if all_ranks else mine
    group = len(step.candidates[0])
    local = torch.arange(len(mine)) + (mine.start - scored.start)  # my queries among the scored rows
    own_QG = local[:, None] * group + torch.arange(group)[None, :]
    queries = torch.tensor(step.query_hashes)[scored.start : scored.stop]
    labels = torch.tensor(step.label_hashes)[scored.start : scored.stop]
    passages = torch.tensor([text_hash(one.source) for row in scored for one in step.candidates[row]])
    owner = torch.arange(len(scored)).repeat_interleave(group)
    masked = mask_false_negatives(
        query_Q=queries[local],
        positive_Q=passages[local * group],
        label_Q=labels[local],
        passage_P=passages,
        owner_query_P=queries[owner],
        owner_label_P=labels[owner],
        is_positive_P=torch.arange(len(passages)) % group == 0,
    )
    if not step.rule.in_batch_negatives:
        masked |= owner[None, :] != local[:, None]
    masked[torch.arange(len(local)), local * group] = False
    teacher = _teacher_scores(step, mine)
    return Targets(
        positive=(local * group).to(device),
        masked=masked.to(device),
        own=own_QG.to(device),
        teacher=None if teacher is None else teacher.to(device),
    )


def _teacher_scores(step: PreparedStep, mine: range) -> Tensor | None:
    """None on all ranks alike: where the rule forbids it, or no row of the whole batch has a score."""
    if not step.rule.distil or all(row[0].score is None for row in step.candidates):
        return None
    return torch.tensor(
        [
            [math.nan if one.score is None else one.score for one in step.candidates[position]]
            for position in mine
        ]
    )
