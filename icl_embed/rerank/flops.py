"""What a score costs: floating-point operations per pair, counted from the model's own layers.

Counted as ``torch.utils.flop_counter`` does: two per multiply-add of every matrix product, attention as the
dense products that kernels are credited with, element-wise work left out. A test holds the count to within
2 % of the counter on the real forward. Lengths are real tokens: padding is not charged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from icl_embed.rerank.pair_tokens import PairTokens
from icl_embed.rerank.shape import Shape


@dataclass(frozen=True)
class LayerCost:
    """Cost of one decoder layer."""

    per_token: int  # all linear maps
    per_token_pair: int  # scores and weighted sum of one query token over one key token, all heads


@dataclass(frozen=True)
class Costs:
    """Cost of every layer of a model, and of one score head."""

    layers: tuple[LayerCost, ...]
    head: int

    def passes(self, num_query: int, num_passage: int, num_prompt: int, shape: Shape) -> int:
        """FLOPs of one whole pair, scored at the cutoff alone."""
        return self._run(num_query, num_passage, num_prompt, shape, num_past=0)

    def prefix(self, num_query: int, shape: Shape) -> int:
        """FLOPs of a query's part alone, to the depth that its candidates need."""
        return sum(
            num_query * cost.per_token + num_query * num_query * cost.per_token_pair
            for cost in self.layers[: shape.cutoff_layer]
        )

    def candidate(self, num_query: int, num_passage: int, num_prompt: int, shape: Shape) -> int:
        """FLOPs of one candidate whose query's part is there already."""
        return self._run(0, num_passage, num_prompt, shape, num_past=num_query)

    def ranking(self, pairs: Iterable[PairTokens], shape: Shape, *, share_query: bool = True) -> int:
        """FLOPs of scoring the candidates of one query."""
        lengths = [(len(pair.query), len(pair.passage), len(pair.prompt)) for pair in pairs]
        if not share_query or len(lengths) == 1:
            return sum(self.passes(*length, shape) for length in lengths)
        shared = self.prefix(lengths[0][0], shape) if lengths else 0
        return shared + sum(self.candidate(*length, shape) for length in lengths)

    def _run(self, num_before: int, num_passage: int, num_after: int, shape: Shape, *, num_past: int) -> int:
        total = self.head
        for layer, cost in enumerate(self.layers[: shape.cutoff_layer]):
            if layer in shape.compress_layers:
                num_passage = -(-num_passage // shape.compress_ratio)
            new = num_before + num_passage + num_after
            total += new * cost.per_token + new * (num_past + new) * cost.per_token_pair
        return total


def costs_of(decoder: Any) -> Costs:
    """Read the costs off a decoder (adapters count while they are not merged)."""
    config = decoder.config
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # Two products (scores, weighted sum), two operations per multiply-add.
    per_pair = 2 * 2 * config.num_attention_heads * head_width
    layers = tuple(
        LayerCost(
            2 * sum(part.weight.numel() for part in layer.modules() if isinstance(part, nn.Linear)), per_pair
        )
        for layer in decoder.layers
    )
    return Costs(layers, 2 * config.hidden_size)
