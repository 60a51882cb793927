"""Running a causal decoder layer by layer: masks, positions, and a query prefix shared by its candidates.

The layers are the backbone's own modules; this file only feeds them what the backbone's ``forward`` would.
``refuse_unknown_backbone`` proves that on a short input, so a backbone that does something between its layers
that we do not know is refused instead of being scored wrongly.

Rows are padded on the right. A real token never looks at padding under causal attention, so padding needs no
mask at all and the fast attention kernels stay usable.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from icl_embed.errors import ModelError

PARTS = ("embed_tokens", "layers", "norm", "rotary_emb")
PROBE_TOKENS = 8
PROBE_TOLERANCE = 1e-2


class Surroundings:
    """What every layer needs besides states: rotary embeddings, position ids and masks of one length."""

    def __init__(self, decoder: Any, states: Tensor, num_past: int = 0) -> None:
        num_new = states.shape[1]
        self._decoder = decoder
        self._positions = torch.arange(num_past, num_past + num_new, device=states.device)[None, :]
        self._rotary = decoder.rotary_emb(states, self._positions)
        self._shape = (num_new, num_past)
        self._masks: dict[int | None, Tensor | None] = {}

    def run_layer(self, layer: int, states: Tensor, past: Any = None) -> Tensor:
        """States after one decoder layer."""
        output: Tensor = self._decoder.layers[layer](
            states,
            attention_mask=self._mask(layer, states),
            position_ids=self._positions,
            position_embeddings=self._rotary,
            past_key_values=past,
            use_cache=past is not None,
        )
        return output

    def _mask(self, layer: int, states: Tensor) -> Tensor | None:
        window = window_of(self._decoder.config, layer)
        if window not in self._masks:
            self._masks[window] = causal_mask(
                *self._shape, window=window, implementation=self._decoder.config._attn_implementation,
                like=states,
            )  # fmt: skip
        return self._masks[window]


def window_of(config: Any, layer: int) -> int | None:
    """How many tokens back a layer sees; None is all of them."""
    window: int | None = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    return window if kinds is None or kinds[layer] == "sliding_attention" else None


def causal_mask(
    num_new: int, num_past: int, *, window: int | None, implementation: str, like: Tensor
) -> Tensor | None:
    """An additive [1, 1, num_new, num_past + num_new] mask, or None where the kernel is causal by itself."""
    total = num_past + num_new
    slides = window is not None and total > window
    if "flash" in implementation or (implementation == "sdpa" and num_past == 0 and not slides):
        return None
    key = torch.arange(total, device=like.device)[None, :]
    query = torch.arange(num_past, total, device=like.device)[:, None]
    hidden = key > query
    if window is not None:
        hidden = hidden | (key <= query - window)
    mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill(hidden, torch.finfo(like.dtype).min)[None, None]


class QueryPrefix:
    """Keys and values of the tokens before the passage, computed once per query, layer by layer on demand.

    Attention is causal and compression touches nothing before the passage, so these are exactly what a full
    pass would compute for every candidate, at any shape; an early exit never computes the deeper layers.
    Stands in for a transformers cache: the attention modules call ``update`` only.
    """

    def __init__(self, decoder: Any, tokens: list[int]) -> None:
        self._states: Tensor = decoder.embed_tokens(torch.tensor([tokens], device=device_of(decoder)))
        self._surroundings = Surroundings(decoder, self._states)
        self._layers: list[tuple[Tensor, Tensor]] = []
        self.length = len(tokens)

    def reach(self, layer: int) -> None:
        """Make sure that the keys and values of a layer are there."""
        while len(self._layers) <= layer:
            self._states = self._surroundings.run_layer(len(self._layers), self._states, self)

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep the prefix's own keys and values, and put them before those of the candidates [B, H, L, D]."""
        if layer_idx == len(self._layers):
            self._layers.append((keys, values))
            return keys, values
        rows = len(keys)
        before_keys, before_values = (part.expand(rows, -1, -1, -1) for part in self._layers[layer_idx])
        return torch.cat([before_keys, keys], dim=2), torch.cat([before_values, values], dim=2)


def device_of(decoder: Any) -> torch.device:
    """Where the decoder computes."""
    device: torch.device = decoder.embed_tokens.weight.device
    return device


def refuse_unknown_backbone(decoder: Any) -> None:
    """Check that running the layers ourselves gives what the backbone gives.

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
    tokens = torch.arange(1, 1 + PROBE_TOKENS, device=device_of(decoder))[None, :]
    with torch.no_grad():
        expected = decoder(input_ids=tokens, use_cache=False).last_hidden_state
        states = decoder.embed_tokens(tokens)
        surroundings = Surroundings(decoder, states)
        for layer in range(len(decoder.layers)):
            states = surroundings.run_layer(layer, states)
        found = decoder.norm(states)
    if not torch.allclose(found.float(), expected.float(), rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE):
        raise ModelError(
            f"running the layers of {name} one by one does not give what its own forward gives; "
            "this backbone is not supported by the reranker"
        )
