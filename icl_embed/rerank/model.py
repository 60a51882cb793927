"""The reranker model: one-output score heads at several layers of a causal decoder.

The score at layer l is ``head_l(final_norm(state after l layers))`` at the last real token alone, soft-capped
where the backbone caps its logits (paper, appendix D). Heads are found by *layer*: the reference code counts
the exits it has collected and so reads the first head whatever layer it stops at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from icl_embed.errors import ModelError
from icl_embed.rerank.compress import Rows, compress
from icl_embed.rerank.decoder import QueryPrefix, Surroundings, device_of
from icl_embed.rerank.shape import Shape

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


class RerankerModel(nn.Module):
    """A decoder with score heads.

    Parameters
        decoder: a headless causal model of transformers (adapters may be attached to its layers).
        heads: the score heads; the last one sits after the last layer.
    """

    def __init__(self, decoder: Any, heads: ScoreHeads) -> None:
        super().__init__()
        if heads.layers[-1] != len(decoder.layers):
            raise ModelError(
                f"the last score head is at layer {heads.layers[-1]}, but the model has {len(decoder.layers)}"
            )
        self.decoder = decoder
        self.heads = heads
        self._softcap: float | None = getattr(decoder.config, "final_logit_softcapping", None)

    def walk(
        self, rows: Rows, shape: Shape, prefix: QueryPrefix | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield (layer, scores [B]) at each head up to the shape's cutoff, deeper as you ask for more.

        Parameters
            rows: the pairs; with a prefix, what follows it.
            prefix: the query that all rows share, if any.
        """
        states = self.decoder.embed_tokens(rows.tokens.to(device_of(self.decoder)))
        layout = rows.layout
        num_past = prefix.length if prefix else 0
        surroundings = Surroundings(self.decoder, states, num_past)
        for layer in range(shape.cutoff_layer + 1):
            if str(layer) in self.heads.by_layer:
                yield layer, self._score(layer, states, layout.lengths)
            if layer == shape.cutoff_layer:
                return
            if layer in shape.compress_layers:
                states, layout = compress(states, layout, shape.compress_ratio)
                surroundings = Surroundings(self.decoder, states, num_past)
            if prefix:
                prefix.reach(layer)
            states = surroundings.run_layer(layer, states, prefix)

    def forward(self, rows: Rows, shape: Shape, prefix: QueryPrefix | None = None) -> Tensor:
        """Scores [B] at the shape's cutoff, in fp32."""
        scores = torch.empty(0)
        for _, scores in self.walk(rows, shape, prefix):  # noqa: B007 - the last exit is the answer
            pass
        return scores

    def _score(self, layer: int, states_BLD: Tensor, lengths: Tensor) -> Tensor:
        row = torch.arange(len(lengths), device=states_BLD.device)
        last_BD = states_BLD[row, (lengths - 1).to(states_BLD.device)]
        scores: Tensor = self.heads(layer, self.decoder.norm(last_BD))
        if self._softcap:
            scores = self._softcap * torch.tanh(scores / self._softcap)
        return scores


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
