"""Where the last token of each row looks: one row of attention per row, whatever kernel computes the rest.

Compression weighs passage tokens by it (Matroyshka re-ranker, arXiv 2501.16302). Only one query row per row
of the batch is multiplied, so it costs about one part in L of the layer's attention.

Legend of tensor shapes: R rows, H query heads, K key heads, G = H / K, L tokens of a row, P of the prefix, D
width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icl_embed.model.packing import Segment

HIDDEN = -1e30  # a score that no softmax sees


def last_looks(
    query: Tensor, key: Tensor, far_key: Tensor | None, segment: Segment, *, softcap: float | None
) -> Tensor:
    """Log of the attention that each row's last token pays to each token of its row, summed over the heads.

    In logarithms, so that what a float cannot hold (attention of e⁻²⁰⁰) still has an order.

    Parameters
        query: [R, H, L, D], scaled.
        key: [R, K, L, D].
        far_key: [1, K, P, D] of the prefix that the rows continue; it takes its share of the attention.

    Returns
        [tokens of the segment] float32, differentiable.
    """
    rows, key_heads, longest, width = key.shape
    lengths_R = torch.tensor(segment.lengths, device=key.device)
    last_RHD = query[torch.arange(rows, device=key.device), :, lengths_R - 1]
    last_RKGD = last_RHD.reshape(rows, key_heads, -1, width)
    scores = last_RKGD @ key.transpose(2, 3)
    if far_key is not None:
        far_KRGP = last_RKGD.transpose(0, 1).reshape(key_heads, -1, width) @ far_key[0].transpose(1, 2)
        far = far_KRGP.reshape(key_heads, rows, -1, far_key.shape[2]).transpose(0, 1)
        scores = torch.cat([scores, far], dim=-1)
    scores = scores.float()
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    columns = torch.arange(scores.shape[-1], device=key.device)
    padding_RL = (columns >= lengths_R[:, None]) & (columns < longest)
    # Finite: the gradient of a logarithm of nothing but zeros would not be a number.
    scores = scores.masked_fill(padding_RL[:, None, None, :], HIDDEN)
    looks_RL = scores.log_softmax(dim=-1)[..., :longest].flatten(1, 2).logsumexp(dim=1)
    flat = looks_RL.flatten()
    return flat if segment.scatter is None else flat.index_select(0, segment.scatter)
