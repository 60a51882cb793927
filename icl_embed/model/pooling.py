"""From token states to one vector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pool(states: Tensor, lengths: Tensor, method: str) -> Tensor:
    """Pool right-padded token states and normalise to unit length.

    Parameters
        states: [B, L, D], any float type.
        lengths: [B], real tokens per row; the last of them is EOS.
        method: ``last`` takes the EOS state, ``mean`` averages the real tokens.

    Returns
        [B, D] float32, each row of length 1.
    """
    rows = torch.arange(len(states), device=states.device)
    if method == "last":
        pooled = states[rows, lengths - 1].float()
    else:
        real = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
        summed = (states.float() * real[:, :, None]).sum(dim=1)
        pooled = summed / lengths[:, None]
    return F.normalize(pooled, dim=-1)
