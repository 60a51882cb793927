"""From token states to one vector per row, and where the last token of each row looks.

Compression weighs passage tokens by it (Matroyshka re-ranker, arXiv 2501.16302). Only one query row per row
of the batch is multiplied, so it costs about one part in L of the layer's attention.

Legend of tensor shapes: R rows, H query heads, K key heads, G = H / K, L tokens of a row, P of the prefix, D
width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from icl_embed.model.packing import Pack, Segment


def pool(states_TD: Tensor, pack: Pack, method: str) -> Tensor:
    """Pool the states of packed rows and normalise to unit length.

    A mean is taken over the row alone, never over the prefix it continues: examples then change what the
    tokens of a query mean, and do not drown them. (The paper's mean run over all tokens failed to train.)

    Parameters
        states_TD: any float type.
        method: ``last`` takes the state of the last token, EOS; ``mean`` averages the tokens of the row.

    Returns
        [R, D] float32, each row of length 1.
    """
    if method == "last":
        pooled = states_TD[pack.starts + pack.lengths - 1].float()
    else:
        row_of_token = torch.repeat_interleave(pack.lengths)
        firsts = pack.lengths.cumsum(0) - pack.lengths
        places = (
            torch.arange(len(row_of_token), device=states_TD.device) + (pack.starts - firsts)[row_of_token]
        )
        zeros = states_TD.new_zeros(len(pack.lengths), states_TD.shape[1], dtype=torch.float32)
        pooled = zeros.index_add(0, row_of_token, states_TD[places].float()) / pack.lengths[:, None]
    return F.normalize(pooled, dim=-1)


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
