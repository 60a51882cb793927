"""What it costs to rank the candidates of a query: floating-point operations, counted without running.

Counted as ``torch.utils.flop_counter`` does: two per multiply-add of every matrix product, attention as the
dense products that kernels are credited with, element-wise work left out. The count follows the packed
forward: linear layers see real tokens alone and a shared query once; attention computes rows of about equal
length together, each as long as the longest of them. A test holds it to within 2 % of the counter on the real
forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from icl_embed.errors import ConfigError
from icl_embed.model.decoder_shape import DecoderShape
from icl_embed.model.packing import buckets
from icl_embed.rerank.decoder import part_of
from icl_embed.rerank.model import Pooling
from icl_embed.rerank.pairs import PairTokens
from icl_embed.rerank.shape import Shape
from icl_embed.rerank.ways import Cascade


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
    pooling: Pooling = "mean"


def costs_of(decoder: Any, pooling: Pooling = "mean") -> Costs:
    """Read the costs off a decoder (adapters count while they are not merged)."""
    shape = DecoderShape.of(decoder.config)
    layers = tuple(
        LayerCost(
            2 * sum(part.weight.numel() for part in layer.modules() if _is_linear(part)), shape.per_pair
        )
        for layer in part_of(decoder, "layers")
    )
    return Costs(layers, 2 * shape.width, pooling)


def _is_linear(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"  # GPT-2's


def query_flops(
    costs: Costs,
    pairs: Sequence[PairTokens],
    way: Shape | Cascade,
    *,
    share_queries: bool = True,
    reached: Sequence[Sequence[int]] | None = None,
) -> int:
    """FLOPs of scoring the candidates of one query, all in one batch.

    Batches of their own cost a little less attention, because rows of more equal length meet.

    Parameters
        pairs: the candidates; all have the same query.
        share_queries: compute the query's part once; False is the reference's way. A cascade always shares.
        reached: for each layer at which a cascade reads scores the candidates that came so far, as
            ``Outcome.reached`` has them; needed for a cascade.

    Raises
        ConfigError: a cascade without them.
    """
    shape = way.shape if isinstance(way, Cascade) else way
    if isinstance(way, Cascade):
        if reached is None or len(reached) != len(way.layers):
            raise ConfigError(
                f"a cascade that reads {len(way.layers)} layers needs as many lists of candidates"
            )
        exits = list(zip(way.layers, reached, strict=True))
    else:
        exits = [(shape.cutoff_layer, range(len(pairs)))]
    if not pairs:
        return 0
    is_shared = isinstance(way, Cascade) or (share_queries and len(pairs) > 1)
    query = len(pairs[0].query) if is_shared else 0
    fixed = [len(pair) - len(pair.passage) - query for pair in pairs]
    passages = [len(pair.passage) for pair in pairs]
    total, start = 0, 0
    for stop, candidates in exits:
        total += len(candidates) * costs.head
        work = None
        for layer in range(start, stop):
            if layer in shape.compress_layers:
                passages = [-(-length // shape.compress_ratio) for length in passages]
                work = None
            work = work or _Work.of(query, [fixed[one] + passages[one] for one in candidates])
            looks = costs.pooling == "attention" and layer + 1 in shape.compress_layers
            total += work.flops(costs.layers[layer], looks=looks)
        start = stop
    return total


@dataclass(frozen=True)
class _Work:
    """What a layer has to do for the rows of a query."""

    tokens: int
    pairs: int  # of tokens that meet in attention
    looked: int  # pairs with a row's last token: half a product, the scores alone

    @classmethod
    def of(cls, query: int, rows: Sequence[int]) -> _Work:
        pairs, looked = query * query, 0
        for bucket in buckets(rows):
            longest = rows[bucket[0]]
            pairs += len(bucket) * longest * (longest + query)
            looked += len(bucket) * (longest + query)
        return cls(query + sum(rows), pairs, looked)

    def flops(self, cost: LayerCost, *, looks: bool) -> int:
        seen = self.pairs * cost.per_token_pair
        return self.tokens * cost.per_token + seen + (self.looked * cost.per_token_pair // 2 if looks else 0)
