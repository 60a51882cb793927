"""The obvious way: one pair at a time through the backbone's own layers, compressed group by group."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from icl_embed.rerank.model import ScoreHeads
from icl_embed.rerank.pairs import PairTokens
from icl_embed.rerank.shape import Shape


def slow_scores(
    decoder: Any, heads: ScoreHeads, pair: PairTokens, shape: Shape, pooling: str = "mean"
) -> dict[int, Tensor]:
    """Score of one pair at each head up to the cutoff; the decoder attends eagerly, with a dense mask."""
    states = decoder.embed_tokens(torch.tensor([pair.query + pair.passage + pair.after]))
    passage, looks, found = len(pair.passage), None, {}
    for layer in range(shape.cutoff_layer + 1):
        if layer in heads.layers:
            found[layer] = score_of(decoder, heads, layer, states[0, -1])
        if layer == shape.cutoff_layer:
            break
        if layer in shape.compress_layers:
            weights = looks if pooling == "attention" else None
            parts = (len(pair.query), passage, len(pair.after))
            states = slowly_compressed(states[0], parts, shape.compress_ratio, weights)[None]
            passage = -(-passage // shape.compress_ratio)
        states, looks = own_layer(decoder, layer, states)
    return found


def score_of(decoder: Any, heads: ScoreHeads, layer: int, state_D: Tensor) -> Tensor:
    score = decoder.norm(state_D) @ heads.by_layer[str(layer)]
    cap = getattr(decoder.config, "final_logit_softcapping", None)
    return cap * torch.tanh(score / cap) if cap else score


def own_layer(decoder: Any, layer: int, states: Tensor) -> tuple[Tensor, Tensor]:
    """One layer, and the attention [L] of the last token, summed over heads."""
    seen: list[Tensor] = []
    hook = decoder.layers[layer].self_attn.register_forward_hook(lambda *found: seen.append(found[2][1]))
    length = states.shape[1]
    causal = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
    positions = torch.arange(length)[None, :]
    after = decoder.layers[layer](
        states,
        attention_mask=causal,
        position_ids=positions,
        position_embeddings=decoder.rotary_emb(states, positions),
    )
    hook.remove()
    return after, seen[0][0, :, -1].sum(dim=0)


def slowly_compressed(
    states: Tensor, parts: tuple[int, int, int], ratio: int, weights: Tensor | None = None
) -> Tensor:
    """One row, one group at a time."""
    before, passage, after = parts
    rows = list(states[:before])
    for start in range(before, before + passage, ratio):
        group = slice(start, min(start + ratio, before + passage))
        weight = torch.ones(len(states[group])) if weights is None else weights[group]
        rows.append((states[group] * weight[:, None]).sum(dim=0) / weight.sum())
    return torch.stack(rows + list(states[before + passage : before + passage + after]))
