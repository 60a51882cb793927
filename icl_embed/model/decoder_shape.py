"""The sizes of a decoder, and what follows from them without loading it: weights, bytes, operations.

Two operations per multiply-add. Per token the linear maps of every layer; per pair of tokens that see each
other the score and the weighted sum. Norms, softmax, embeddings and tokenisation count nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Names in a config.json by family, Llama's first.
_NAMES = {
    "layers": ("num_hidden_layers", "n_layer"),
    "width": ("hidden_size", "n_embd"),
    "heads": ("num_attention_heads", "n_head"),
    "key_heads": ("num_key_value_heads",),
    "head_width": ("head_dim",),
    "inner": ("intermediate_size", "n_inner", "ffn_dim"),
    "vocabulary": ("vocab_size",),
}
WITHOUT_GATE = ("gpt2", "gpt_neox", "opt")  # model types whose feed-forward part has two maps, not three


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a Llama-type decoder.

    Attributes
        key_heads: heads of keys and values.
        inner: width of the feed-forward part.
        is_gated: whether that part has a gate.
        is_tied: whether the language-model head is the embedding table.
    """

    layers: int
    width: int
    heads: int
    key_heads: int
    head_width: int
    inner: int
    vocabulary: int
    is_gated: bool = True
    is_tied: bool = False

    @classmethod
    def of(cls, config: Any) -> DecoderShape:
        """Read from a transformers config, or from what a ``config.json`` holds."""

        def get(name: str) -> Any:
            return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)

        found = {size: next(filter(None, map(get, names)), None) for size, names in _NAMES.items()}
        width, heads = int(found["width"] or 0), int(found["heads"] or 1)
        return cls(
            layers=int(found["layers"] or 0),
            width=width,
            heads=heads,
            key_heads=int(found["key_heads"] or heads),
            head_width=int(found["head_width"] or width // heads),
            inner=int(found["inner"] or 4 * width),
            vocabulary=int(found["vocabulary"] or 0),
            is_gated=get("model_type") not in WITHOUT_GATE,
            is_tied=bool(get("tie_word_embeddings")),
        )

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a layer's linear maps, by the names that Llama has for them."""
        own, keys = self.heads * self.head_width, self.key_heads * self.head_width
        gate = {"gate_proj": (self.width, self.inner)} if self.is_gated else {}
        return {
            "q_proj": (self.width, own),
            "k_proj": (self.width, keys),
            "v_proj": (self.width, keys),
            "o_proj": (own, self.width),
            **gate,
            "up_proj": (self.width, self.inner),
            "down_proj": (self.inner, self.width),
        }

    @property
    def linear_weights(self) -> int:
        """Weights of the linear maps of all layers."""
        return self.layers * sum(rows * columns for rows, columns in self.linears.values())

    @property
    def parameters(self) -> int:
        """Weights of the headless model; biases, which few families have, aside."""
        norms = (2 * self.layers + 1) * self.width
        return self.linear_weights + self.vocabulary * self.width + norms

    @property
    def stored_parameters(self) -> int:
        """Weights that its files hold: with the language-model head, unless that is the embedding table."""
        return self.parameters + (0 if self.is_tied else self.vocabulary * self.width)

    def adapter_parameters(self, rank: int, targets: Iterable[str]) -> int:
        """Weights of low-rank adapters of these maps in every layer."""
        sizes = [self.linears[name] for name in targets if name in self.linears]
        return self.layers * rank * sum(rows + columns for rows, columns in sizes)

    @property
    def per_token(self) -> int:
        """Operations of one layer for each token."""
        return 2 * sum(rows * columns for rows, columns in self.linears.values())

    @property
    def per_pair(self) -> int:
        """Operations of one layer for each token and each one that it sees, all heads."""
        return 4 * self.heads * self.head_width

    def sequence(self, length: int, *, after: int = 0) -> int:
        """Operations of a causal sequence of ``length`` tokens that continues ``after`` computed ones."""
        pairs = length * after + length * (length + 1) // 2
        return self.layers * (length * self.per_token + pairs * self.per_pair)

    def whole(self, lengths: Iterable[int]) -> int:
        """Operations of every sequence on its own."""
        return sum(self.sequence(length) for length in lengths)

    def in_full(self, prefix: int, tails: Iterable[int]) -> int:
        """Operations of every query with a prefix of its own."""
        return self.whole(prefix + tail for tail in tails)

    def shared(self, prefix: int, tails: Iterable[int]) -> int:
        """Operations of a prefix computed once, and of the queries that continue it."""
        return self.sequence(prefix) + sum(self.sequence(tail, after=prefix) for tail in tails)
