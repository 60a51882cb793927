"""InfoNCE over cosine similarity, with the negatives that are not negatives masked out.

Legend of tensor shapes: Q queries of this rank, P passages of all ranks, D width.
"""

from __future__ import annotations

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
