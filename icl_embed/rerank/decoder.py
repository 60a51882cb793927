"""Running a causal decoder layer by layer over packed pairs, and making fewer states of many.

Only passage tokens are averaged, in runs of r; the last run of a passage averages its real members only. The
mean is plain (paper, appendix D), or weighted by where the pair's last token looked in the layer before
(Matroyshka re-ranker, arXiv 2501.16302), normalised within each run.

Legend of tensor shapes: T old tokens, M new ones, D width.

The layers are the backbone's own modules; this file only feeds them what the backbone's ``forward`` would.
``refuse_unknown_backbone`` proves that on a short input, so a backbone that does something between its layers
that we do not know is refused instead of being scored wrongly.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from icl_embed.errors import ModelError
from icl_embed.model.architectures import KNOWN, architecture_of
from icl_embed.model.attention import use_packed_attention
from icl_embed.model.backbone import PROBE_TOLERANCE, differences, refuse_unfaithful, token_states
from icl_embed.model.batching import Group
from icl_embed.model.packing import Layout, PrefixStates, pack
from icl_embed.prompts import Tokens
from icl_embed.rerank.pairs import Merge


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


PARTS = ("embed", "layers", "norm")

Rotary = Any  # what the backbone's own module makes of positions: cosines and sines, of each kind of layer


def part_of(decoder: Any, name: str) -> Any:
    """A part of the decoder (see ``Architecture``), whatever it is called there; None where it has none."""
    return architecture_of(getattr(decoder, "config", None)).part(decoder, name)


def embed(decoder: Any, tokens: Tensor, positions: Tensor) -> Tensor:
    """States [T, D] before the first layer."""
    states: Tensor = part_of(decoder, "embed")(tokens[None])[0]
    table = part_of(decoder, "positions")
    if table is not None:
        states = states + F.embedding(positions + getattr(table, "offset", 0), table.weight)
    return states


def rotary_of(decoder: Any, states_TD: Tensor, positions: Tensor) -> Rotary:
    """Rotary embeddings of packed positions [T], by kind of layer where kinds differ; None without any."""
    rotary = part_of(decoder, "rotary")
    if rotary is None:
        return None
    if hasattr(rotary, "layer_types"):
        return {kind: rotary(states_TD[None], positions[None], kind) for kind in rotary.layer_types}
    return rotary(states_TD[None], positions[None])


def run_layer(
    decoder: Any, layer: int, states_TD: Tensor, *, positions: Tensor, rotary: Rotary, layout: Layout
) -> Tensor:
    """States [T, D] after one decoder layer.

    Raises
        ModelError: a pair is longer than the layer's sliding window.
    """
    states: Tensor = part_of(decoder, "layers")[layer](
        states_TD[None],
        attention_mask=None,
        position_ids=positions[None],
        position_embeddings=rotary[decoder.config.layer_types[layer]] if isinstance(rotary, dict) else rotary,
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
        self._states = embed(decoder, self._pack.tokens, self._pack.positions)
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
    device: torch.device = part_of(decoder, "embed").weight.device
    return device


def refuse_unknown_backbone(decoder: Any) -> None:
    """Check that running the packed layers ourselves gives what the backbone's own forward gives.

    From then on the backbone's layers attend to packed sequences.

    Raises
        ModelError: a part is missing, or the results differ.
    """
    name = type(decoder).__name__
    missing = [part for part in PARTS if part_of(decoder, part) is None]
    if missing:
        supported = ", ".join(one.title for one in KNOWN.values())
        raise ModelError(
            f"the reranker does not find the {', '.join(missing)} of {name}; supported are {supported}"
        )
    refuse_unfaithful(decoder)
    use_packed_attention(decoder)
    packed = pack([Group([[3, 4, 5], [6, 7]], [1, 2])], device=device_of(decoder))
    with torch.no_grad():
        whole = token_states(decoder, packed)
        states = embed(decoder, packed.tokens, packed.positions)
        rotary = rotary_of(decoder, states, packed.positions)
        for layer in range(len(part_of(decoder, "layers"))):
            states = run_layer(
                decoder, layer, states, positions=packed.positions, rotary=rotary, layout=packed.layout
            )
        found = part_of(decoder, "norm")(states)
    if not bool(differences(found, whole).max() <= PROBE_TOLERANCE):  # not a number is refused as well
        raise ModelError(
            f"running the layers of {name} one by one does not give what its own forward gives; "
            "this backbone is not supported by the reranker"
        )
