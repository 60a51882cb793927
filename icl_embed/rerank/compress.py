"""States of a packed sequence made of those of another: copies, and weighted means of neighbours.

Only passage tokens are averaged, in runs of r; the last run of a passage averages its real members only. The
mean is plain (paper, appendix D), or weighted by where the pair's last token looked in the layer before
(Matroyshka re-ranker, arXiv 2501.16302), normalised within each run.

Legend of tensor shapes: T old tokens, M new ones, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icl_embed.rerank.pair_packing import Merge


def merge_states(states_TD: Tensor, merge: Merge, ratio: int, looks_T: Tensor | None = None) -> Tensor:
    """New states [M, D]; differentiable. Means are taken in fp32.

    Parameters
        ratio: the largest run of old tokens that becomes one.
        looks_T: log weights of the old tokens; None weighs all alike.
    """
    if ratio == 1:
        return states_TD.index_select(0, merge.first)
    spot_R = torch.arange(ratio, device=states_TD.device)
    counts_MR = spot_R < merge.count[:, None]
    # Beyond a run's end its first token is read again, with weight zero: nothing undefined is touched.
    index_MR = merge.first[:, None] + spot_R * counts_MR
    weight_MR = counts_MR / merge.count[:, None]
    if looks_T is not None:
        weight_MR = looks_T[index_MR].masked_fill(~counts_MR, -torch.inf).softmax(dim=1)
    total_MD = states_TD.new_zeros((len(index_MR), states_TD.shape[1]), dtype=torch.float32)
    for member in range(ratio):
        picked = states_TD.index_select(0, index_MR[:, member]).float()
        total_MD = total_MD + picked * weight_MR[:, member, None]
    return total_MD.to(states_TD.dtype)
