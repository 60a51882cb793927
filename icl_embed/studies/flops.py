"""Operations of a decoder, counted from its shape: what examples cost on any machine.

Two operations per multiply-add. Per token the linear maps of every layer; per pair of tokens that see each
other the score and the weighted sum. Norms, softmax, embeddings and tokenisation count nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DecoderFlops:
    """Operations of a Llama-type decoder.

    Attributes
        layers: how many.
        per_token: of one layer, for each token.
        per_pair: of one layer, for each token and each one that it sees.
    """

    layers: int
    per_token: int
    per_pair: int

    @classmethod
    def of(cls, config: Any) -> DecoderFlops:
        """Read from a model's Hugging Face config."""
        width, heads = config.hidden_size, config.num_attention_heads
        head_width = getattr(config, "head_dim", None) or width // heads
        key_heads = getattr(config, "num_key_value_heads", None) or heads
        attention = 2 * width * head_width * (heads + key_heads)  # query and output, key and value
        return cls(
            config.num_hidden_layers,
            2 * (attention + 3 * width * config.intermediate_size),
            4 * heads * head_width,
        )

    def sequence(self, length: int, *, after: int = 0) -> int:
        """A causal sequence of ``length`` tokens that continues ``after`` tokens already computed."""
        pairs = length * after + length * (length + 1) // 2
        return self.layers * (length * self.per_token + pairs * self.per_pair)

    def whole(self, lengths: Iterable[int]) -> int:
        """Every sequence on its own."""
        return sum(self.sequence(length) for length in lengths)

    def in_full(self, prefix: int, tails: Iterable[int]) -> int:
        """Every query with a prefix of its own."""
        return self.whole(prefix + tail for tail in tails)

    def shared(self, prefix: int, tails: Iterable[int]) -> int:
        """A prefix computed once, and the queries that continue it."""
        return self.sequence(prefix) + sum(self.sequence(tail, after=prefix) for tail in tails)
