"""From token states to one vector per row."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from icl_embed.model.packing import Pack


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
