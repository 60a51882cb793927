"""The losses: InfoNCE over cosine similarity, and the teacher's distribution over a query's own candidates.

Legend of tensor shapes: Q queries of this rank, P passages that are scored, G candidates per query, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(scores_QP: Tensor, positive_Q: Tensor, masked_QP: Tensor) -> Tensor:
    """Summed cross-entropy of each query's positive among the passages that are not masked.

    Parameters
        scores_QP: similarity divided by the temperature.
        positive_Q: column of each query's positive; must not be masked.
        masked_QP: True where a passage must not count as a negative of the query.

    Returns
        A scalar, the sum over queries (divide by the global batch size).
    """
    return F.cross_entropy(scores_QP.masked_fill(masked_QP, -torch.inf), positive_Q, reduction="sum")


def distillation(scores_QG: Tensor, teacher_QG: Tensor) -> Tensor:
    """Summed KL(teacher ‖ student) over the candidates that the teacher scored (paper section 3.3).

    Both are softmax distributions, the teacher's over its raw scores. A query whose positive has no score,
    or which has no scored negative, teaches nothing.

    Parameters
        scores_QG: the student's similarity divided by the temperature, the positive first.
        teacher_QG: the teacher's scores, NaN where it gave none.
    """
    known_QG = teacher_QG.isfinite()
    taught_Q = known_QG[:, 0] & (known_QG.sum(dim=1) > 1)
    known = known_QG[taught_Q]
    teacher = teacher_QG[taught_Q].masked_fill(~known, -torch.inf).log_softmax(dim=1)
    student = scores_QG[taught_Q].masked_fill(~known, -torch.inf).log_softmax(dim=1)
    # Absent candidates are -inf in both: 0 · (-inf + inf) must not reach the sum.
    divergence = teacher.exp() * (teacher.masked_fill(~known, 0.0) - student.masked_fill(~known, 0.0))
    return divergence.sum()


def imitation(scores_QP: Tensor, teacher_QP: Tensor, masked_QP: Tensor) -> Tensor:
    """Summed KL(teacher ‖ student) over all passages that are not masked, those of other queries too.

    Parameters
        scores_QP, teacher_QP: similarities divided by temperatures of their own.
        masked_QP: as in ``info_nce``.
    """
    teacher = teacher_QP.masked_fill(masked_QP, -torch.inf).log_softmax(dim=1)
    student = scores_QP.masked_fill(masked_QP, -torch.inf).log_softmax(dim=1)
    gap = teacher.masked_fill(masked_QP, 0.0) - student.masked_fill(masked_QP, 0.0)
    return (teacher.exp() * gap).sum()


def leading_dimensions(vectors: Tensor, dims: Sequence[int]) -> Iterator[Tensor]:
    """Unit vectors [N, d] of the first d dimensions, for each d asked for, then all of them.

    Matryoshka representation learning (arXiv 2205.13147): every prefix of a vector is a vector.
    """
    for width in dims:
        if width < vectors.shape[1]:
            yield F.normalize(vectors[:, :width], dim=-1)
    yield vectors


def mask_false_negatives(
    *,
    query_Q: Tensor,
    positive_Q: Tensor,
    label_Q: Tensor,
    passage_P: Tensor,
    owner_query_P: Tensor,
    owner_label_P: Tensor,
    is_positive_P: Tensor,
) -> Tensor:
    """Which passages must not be negatives of which query: [Q, P] bool.

    A passage is masked for a query when it is the same text as its positive, when it is a positive of another
    row with the same query text, or when it is a positive of a row with the same label (label tasks). The
    caller unmasks each query's own positive. All tensors hold 64-bit text hashes; label 0 means no label.
    """
    same_text = passage_P[None, :] == positive_Q[:, None]
    same_query = (owner_query_P[None, :] == query_Q[:, None]) & is_positive_P[None, :]
    labelled = label_Q[:, None] != 0
    same_label = labelled & (owner_label_P[None, :] == label_Q[:, None]) & is_positive_P[None, :]
    return same_text | same_query | same_label
