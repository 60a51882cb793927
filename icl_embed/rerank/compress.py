"""Passage-token compression: each run of r consecutive passage states becomes their mean.

Only the passage is compressed; query and prompt keep every token, and the sequence closes up, so position
ids run on from 0 without gaps. The last group of a passage averages its real members only. Everything that
depends on lengths is computed on the CPU, so an accelerator is never waited for.

Legend of tensor shapes: B rows, L tokens before, M tokens after, R ratio, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from icl_embed.model.batching import pad_right
from icl_embed.rerank.pair_tokens import PairTokens


@dataclass(frozen=True)
class Layout:
    """Where the passage lies in each right-padded row; int64 [B] on the CPU."""

    lengths: Tensor
    passage_start: Tensor
    passage_length: Tensor

    def after(self, ratio: int) -> Layout:
        """The layout once the passages are compressed."""
        short = -(-self.passage_length // ratio)
        return Layout(self.lengths - self.passage_length + short, self.passage_start, short)

    def members(self, ratio: int) -> tuple[Tensor, Tensor]:
        """Which old positions each new position averages: indices [B, M, R] and who counts [B, M, R].

        Padding points at the row's last real token, so that no row ever holds an undefined value.
        """
        new = self.after(ratio)
        position = torch.arange(int(new.lengths.max()))[None, :]
        start, removed = self.passage_start[:, None], (self.passage_length - new.passage_length)[:, None]
        after = start + new.passage_length[:, None]
        inside = (position >= start) & (position < after)
        first = torch.where(position < start, position, position + removed)
        first = torch.where(inside, start + (position - start) * ratio, first)
        step = torch.arange(ratio)[None, None, :]
        index_BMR = first[:, :, None] + step
        end = (start + self.passage_length[:, None])[:, :, None]
        counts_BMR = (step == 0) | (inside[:, :, None] & (index_BMR < end))
        return index_BMR.minimum(self.lengths[:, None, None] - 1), counts_BMR


@dataclass(frozen=True)
class Rows:
    """A batch of pairs: tokens [B, L], padded on the right, and their layout."""

    tokens: Tensor
    layout: Layout


def make_rows(pairs: Sequence[PairTokens], pad: int, *, after_query: bool = False) -> Rows:
    """Stack pairs; ``after_query`` leaves out the query part, which a shared prefix then holds."""
    starts = [0 if after_query else len(pair.query) for pair in pairs]
    sequences = [(pair.passage if after_query else pair.query + pair.passage) + pair.prompt for pair in pairs]
    tokens, lengths = pad_right(sequences, pad)
    passage_lengths = torch.tensor([len(pair.passage) for pair in pairs])
    return Rows(tokens, Layout(lengths, torch.tensor(starts), passage_lengths))


def compress(states_BLD: Tensor, layout: Layout, ratio: int) -> tuple[Tensor, Layout]:
    """States [B, M, D] of the compressed rows, and their layout. Means are taken in fp32."""
    index_BMR, counts_BMR = layout.members(ratio)
    # Whatever lies beyond a group weighs nothing but must exist: its index is clamped, its weight is zero.
    weight_BMR = (counts_BMR / counts_BMR.sum(dim=2, keepdim=True)).to(states_BLD.device)
    index_BMR = index_BMR.to(states_BLD.device)
    width = states_BLD.shape[2]
    mean_BMD = torch.zeros((*index_BMR.shape[:2], width), device=states_BLD.device)
    for member in range(ratio):
        picked = states_BLD.gather(1, index_BMR[:, :, member, None].expand(-1, -1, width))
        mean_BMD = mean_BMD + picked.float() * weight_BMR[:, :, member, None]
    return mean_BMD.to(states_BLD.dtype), layout.after(ratio)
