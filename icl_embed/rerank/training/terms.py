"""The terms of the reranker's loss (paper, appendix D): rank the positive first, imitate a distribution.

Each term is a mean over heads and queries. The reference code sums over heads instead, which is the same loss
times their number: with AdamW only the weights of the terms relative to each other matter.

Legend of tensor shapes: H heads, Q queries of this rank, G candidates per query, the positive first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from icl_embed.train.loss import distillation

ABSENT = -1e4  # score of a candidate that a shorter group does not have: probability 0, and no NaN in a KL


def group_index(sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Where the candidates of each group lie in the flat list: indices [Q, G], and which are real [Q, G]."""
    size_Q1 = torch.tensor(sizes)[:, None]
    start_Q1 = size_Q1.cumsum(dim=0) - size_Q1
    spot_1G = torch.arange(max(sizes))[None, :]
    return start_Q1 + spot_1G.minimum(size_Q1 - 1), spot_1G < size_Q1


def contrastive_loss(scores_HQG: Tensor) -> Tensor:
    """Mean cross-entropy of the positive (column 0) over heads and queries."""
    flat = scores_HQG.flatten(0, 1)
    return F.cross_entropy(flat, torch.zeros(len(flat), dtype=torch.long, device=flat.device))


def distillation_loss(scores_HQG: Tensor, teacher_QG: Tensor) -> Tensor:
    """Mean KL(teacher ‖ head) over heads and queries; no gradient reaches the teacher."""
    student = F.log_softmax(scores_HQG, dim=-1)
    teacher = F.log_softmax(teacher_QG.detach(), dim=-1).expand_as(student)
    divergence = F.kl_div(student, teacher, log_target=True, reduction="sum")
    return divergence / (scores_HQG.shape[0] * scores_HQG.shape[1])


def teacher_loss(scores_HQG: Tensor, teacher_QG: Tensor) -> Tensor:
    """Mean KL(external teacher ‖ head) over heads and queries.

    Parameters
        teacher_QG: the teacher's scores, NaN where it gave none; those candidates are left out of both
            distributions, and a query without a scored negative counts as 0.
    """
    heads, queries = scores_HQG.shape[:2]
    taught = distillation(scores_HQG.flatten(0, 1), teacher_QG.repeat(heads, 1))
    return taught / (heads * queries)
