"""Running a causal decoder layer by layer over packed pairs, and a query's states for many batches.

The layers are the backbone's own modules; this file only feeds them what the backbone's ``forward`` would.
``refuse_unknown_backbone`` proves that on a short input, so a backbone that does something between its layers
that we do not know is refused instead of being scored wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from icl_embed.errors import ModelError
from icl_embed.model.attention import use_packed_attention
from icl_embed.model.backbone import token_states
from icl_embed.model.groups import Group
from icl_embed.model.packing import Layout, PrefixStates, pack
from icl_embed.prompts import Tokens

PARTS = ("embed_tokens", "layers", "norm", "rotary_emb")
PROBE_TOKENS = 8
PROBE_TOLERANCE = 1e-3  # of a state's length
PROBE_TOLERANCE_16_BITS = 0.25  # between kernels: each layer rounds, and another order rounds otherwise

Rotary = Any  # what the backbone's own module makes of positions: cosines and sines


def embed(decoder: Any, tokens: Tensor) -> Tensor:
    """States [T, D] before the first layer."""
    states: Tensor = decoder.embed_tokens(tokens[None])[0]
    return states


def rotary_of(decoder: Any, states_TD: Tensor, positions: Tensor) -> Rotary:
    """Rotary embeddings of packed positions [T]; they serve all layers."""
    return decoder.rotary_emb(states_TD[None], positions[None])


def run_layer(
    decoder: Any, layer: int, states_TD: Tensor, *, positions: Tensor, rotary: Rotary, layout: Layout
) -> Tensor:
    """States [T, D] after one decoder layer.

    Raises
        ModelError: a pair is longer than the layer's sliding window.
    """
    states: Tensor = decoder.layers[layer](
        states_TD[None],
        attention_mask=None,
        position_ids=positions[None],
        position_embeddings=rotary,
        use_cache=False,
        layout=layout,
    )
    return states[0]


class QueryStates:
    """Keys and values of the tokens before the passage, computed once per query, layer by layer on demand.

    Attention is causal and compression touches nothing before the passage, so these are exactly what a full
    pass would compute for every candidate, at any shape; an early exit never computes the deeper layers.

    Attributes
        states: for ``pack_pairs``; it grows with the layers that were reached.
    """

    def __init__(self, decoder: Any, tokens: Tokens) -> None:
        device = device_of(decoder)
        self._decoder = decoder
        self._pack = pack([Group([tokens])], device=device)
        self._states = embed(decoder, self._pack.tokens)
        self._rotary = rotary_of(decoder, self._states, self._pack.positions)
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self.states = PrefixStates(self._keys, self._values)
        self.reach(0)

    def reach(self, layer: int) -> None:
        """Make sure that the keys and values of a layer are there."""
        while len(self._keys) <= layer:
            recorded: list[tuple[Tensor, Tensor]] = []
            self._states = run_layer(
                self._decoder,
                len(self._keys),
                self._states,
                positions=self._pack.positions,
                rotary=self._rotary,
                layout=replace(self._pack.layout, recorded=recorded),
            )
            ((key, value),) = recorded
            self._keys.append(key)
            self._values.append(value)


def device_of(decoder: Any) -> torch.device:
    """Where the decoder computes."""
    device: torch.device = decoder.embed_tokens.weight.device
    return device


def refuse_unknown_backbone(decoder: Any) -> None:
    """Check that running the packed layers ourselves gives what the backbone's own forward gives.

    From then on the backbone's layers attend to packed sequences.

    Raises
        ModelError: a part is missing, or the results differ.
    """
    missing = [part for part in PARTS if not hasattr(decoder, part)]
    name = type(decoder).__name__
    if missing:
        raise ModelError(
            f"{name} has no {', '.join(missing)}; the reranker needs a decoder with rotary positions "
            "(Llama, Qwen, Mistral, Gemma 2 and their kin)"
        )
    device = device_of(decoder)
    tokens = torch.arange(1, 1 + PROBE_TOKENS, device=device)
    half = PROBE_TOKENS // 2
    rows = [tokens[half:].tolist(), tokens[half:-1].tolist()]  # two, so that the first half is shared
    packed = pack([Group(rows, tokens[:half].tolist())], device=device)
    with torch.no_grad():
        with _own_attention(decoder):
            unpacked = decoder(input_ids=tokens[None], use_cache=False).last_hidden_state[0]
        whole = token_states(decoder, packed)
        states = embed(decoder, packed.tokens)
        rotary = rotary_of(decoder, states, packed.positions)
        for layer in range(len(decoder.layers)):
            states = run_layer(
                decoder, layer, states, positions=packed.positions, rotary=rotary, layout=packed.layout
            )
        found = decoder.norm(states)
    if not bool(_differences(found, whole).max() <= PROBE_TOLERANCE):  # not a number is refused as well
        raise ModelError(
            f"running the layers of {name} one by one does not give what its own forward gives; "
            "this backbone is not supported by the reranker"
        )
    first_row = torch.cat([found[:half], found[packed.starts[0] :][: PROBE_TOKENS - half]])
    tolerance = PROBE_TOLERANCE if found.dtype == torch.float32 else PROBE_TOLERANCE_16_BITS
    # The median token: in 16 bits a rare one differs by as much between transformers' own eager and sdpa.
    if not bool(_differences(first_row, unpacked).median() <= tolerance):
        raise ModelError(
            f"packed attention does not give what the own attention of {name} gives; "
            "this backbone is not supported by the reranker"
        )


def _differences(found_TD: Tensor, expected_TD: Tensor) -> Tensor:
    """Lengths [T] of the differences, in units of the expected lengths."""
    expected = expected_TD.float()
    lengths: Tensor = (found_TD.float() - expected).norm(dim=-1) / expected.norm(dim=-1)
    return lengths


@contextmanager
def _own_attention(decoder: Any) -> Iterator[None]:
    decoder.config._attn_implementation = "eager"
    try:
        yield
    finally:
        use_packed_attention(decoder)
