"""The reranker model: one-output score heads at several layers of a causal decoder, over packed pairs.

The score at layer l is ``head_l(final_norm(state after l layers))`` at the last real token alone, soft-capped
where the backbone caps its logits (paper, appendix D). Heads are found by *layer*: the reference code counts
the exits it has collected and so reads the first head whatever layer it stops at.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from icl_embed.errors import ConfigError, ModelError
from icl_embed.model.attention import use_packed_attention
from icl_embed.rerank.decoder import (
    QueryStates,
    Rotary,
    device_of,
    embed,
    merge_states,
    part_of,
    rotary_of,
    run_layer,
)
from icl_embed.rerank.pairs import PackedPairs, rearrange
from icl_embed.rerank.shape import Shape

Pooling = Literal["mean", "attention"]

YES = "Yes"


class ScoreHeads(nn.Module):
    """One linear score per layer that has a head, kept under the layer's number."""

    def __init__(self, layers: Sequence[int], width: int) -> None:
        super().__init__()
        self.by_layer = nn.ParameterDict({str(layer): nn.Parameter(torch.zeros(width)) for layer in layers})

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have a head, ascending."""
        return tuple(sorted(int(layer) for layer in self.by_layer))

    def forward(self, layer: int, states_BD: Tensor) -> Tensor:
        """Scores [B] in fp32 of normalised states [B, D] after ``layer`` layers."""
        scores: Tensor = states_BD.float() @ self.by_layer[str(layer)].float()
        return scores


@dataclass(frozen=True)
class Progress:
    """How far a pass has come: it can be read at a head, and continued.

    Attributes
        layer: decoder layers that have run.
        states: [T, D] after that layer.
        looks: [T] where the pairs' last tokens looked in that layer, where compression comes next and asks.
    """

    layer: int
    states: Tensor
    pairs: PackedPairs
    rotary: Rotary
    looks: Tensor | None = None


class RerankerModel(nn.Module):
    """A decoder with score heads.

    Parameters
        decoder: a headless causal model of transformers (adapters may be attached to its layers). Its layers
            attend to packed sequences from now on.
        heads: the score heads; the last one sits after the last layer.
        pooling: what a compressed token is: the plain mean of its members, or weighted by the attention that
            the pair's last token paid to them in the layer before.
    """

    def __init__(self, decoder: Any, heads: ScoreHeads, *, pooling: Pooling = "mean") -> None:
        super().__init__()
        depth = len(part_of(decoder, "layers"))
        if heads.layers[-1] != depth:
            raise ModelError(f"the last score head is at layer {heads.layers[-1]}, but the model has {depth}")
        use_packed_attention(decoder)
        self.decoder = decoder
        self.heads = heads
        self.pooling: Pooling = pooling
        self._softcap: float | None = getattr(decoder.config, "final_logit_softcapping", None)

    def walk(
        self, pairs: PackedPairs, shape: Shape, query: QueryStates | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield (layer, scores [N]) at each head up to the shape's cutoff, deeper as you ask for more.

        Parameters
            query: whose states the pairs were packed for, if they share a query from outside.

        Raises
            ModelError: a pair is longer than the model looks back.
            ConfigError: attention weights were asked for where there is no layer before.
        """
        progress = self.begin(pairs)
        for layer in self.heads.layers:
            if layer > shape.cutoff_layer:
                return
            progress = self.advance(progress, layer, shape, query)
            yield layer, self.scores(progress)

    def forward(self, pairs: PackedPairs, shape: Shape, query: QueryStates | None = None) -> Tensor:
        """Scores [N] at the shape's cutoff, in fp32."""
        return self.scores(self.advance(self.begin(pairs), shape.cutoff_layer, shape, query))

    def begin(self, pairs: PackedPairs) -> Progress:
        """Before the first layer."""
        states = embed(self.decoder, pairs.tokens.to(device_of(self.decoder)), pairs.positions)
        return Progress(0, states, pairs, rotary_of(self.decoder, states, pairs.positions))

    def advance(
        self, progress: Progress, layer: int, shape: Shape, query: QueryStates | None = None
    ) -> Progress:
        """Run the layers up to ``layer``, compressing where the shape says so; deeper layers do not run."""
        for current in range(progress.layer, layer):
            if current in shape.compress_layers:
                progress = self._compressed(progress, shape.compress_ratio)
            if query is not None:
                query.reach(current)
            looks: list[Tensor] | None = [] if self._asks_for_looks(current + 1, shape) else None
            pairs = progress.pairs
            states = run_layer(
                self.decoder,
                current,
                progress.states,
                positions=pairs.positions,
                rotary=progress.rotary,
                layout=replace(pairs.layout, looks=looks),
            )
            progress = replace(progress, layer=current + 1, states=states, looks=looks[0] if looks else None)
        return progress

    def scores(self, progress: Progress) -> Tensor:
        """Scores [N] in fp32 of the head at the layer that a pass has reached."""
        last_ND = progress.states.index_select(0, progress.pairs.last)
        scores: Tensor = self.heads(progress.layer, part_of(self.decoder, "norm")(last_ND))
        if self._softcap:
            scores = self._softcap * torch.tanh(scores / self._softcap)
        return scores

    def kept(
        self, progress: Sequence[Progress], rows: Sequence[tuple[int, int]], query: QueryStates | None = None
    ) -> Progress:
        """Some rows of passes that have come to the same layer, as one pass.

        Parameters
            rows: of each new row the pass that it is in, and its number there.
            query: as in ``walk``.
        """
        starts = [0, *itertools.accumulate(len(one.states) for one in progress)]
        chosen = []
        for number, row in rows:
            found = progress[number].pairs.rows[row]
            chosen.append(
                replace(
                    found,
                    start=found.start + starts[number],
                    query_start=found.query_start + starts[number],
                )
            )
        states = torch.cat([one.states for one in progress])
        shared = query.states if query is not None else None
        merge, pairs = rearrange(chosen, shared=shared, device=states.device)
        states = merge_states(states, merge, 1)
        looks = [one.looks for one in progress if one.looks is not None]
        return Progress(
            progress[0].layer,
            states,
            pairs,
            rotary_of(self.decoder, states, pairs.positions),
            torch.cat(looks).index_select(0, merge.first) if looks else None,
        )

    def _compressed(self, progress: Progress, ratio: int) -> Progress:
        if self.pooling == "attention" and progress.looks is None:
            raise ConfigError(
                "compress_pooling is attention, but no layer runs before compression entering layer 0; "
                "compress from layer 1 on, or use mean"
            )
        old = progress.pairs
        merge, pairs = rearrange(old.rows, ratio, shared=old.layout.shared, device=progress.states.device)
        states = merge_states(progress.states, merge, ratio, progress.looks)
        return Progress(progress.layer, states, pairs, rotary_of(self.decoder, states, pairs.positions))

    def _asks_for_looks(self, layer: int, shape: Shape) -> bool:
        return self.pooling == "attention" and layer in shape.compress_layers


def heads_from_vocabulary(tokenizer: Any, vocabulary_VD: Tensor, layers: Sequence[int]) -> ScoreHeads:
    """Heads that start as the language model's own ``Yes``: its row of the output matrix, at every layer.

    Raises
        ModelError: ``Yes`` is not one token of this tokenizer.
    """
    ids = tokenizer(YES, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ModelError(
            f"the tokenizer has no single token for {YES!r} (it gives {ids}); the score heads start from "
            "that row of the language-model head, so choose a backbone whose vocabulary has it"
        )
    heads = ScoreHeads(layers, vocabulary_VD.shape[1]).to(vocabulary_VD.device, vocabulary_VD.dtype)
    with torch.no_grad():
        for weight in heads.by_layer.values():
            weight.copy_(vocabulary_VD[ids[0]])
    return heads
