"""The FLOP limit: what the fewest operations are that give these vectors.

Two operations per multiply-add. Per token the linear maps of every layer; per pair of tokens that see each other
the score and the weighted sum. Padding, norms, softmax, embeddings and tokenisation count nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelFlops:
    """Operations of a Llama-type decoder."""

    layers: int
    per_token: int  # of one layer
    per_pair: int  # of one layer: a token and one that it sees

    @classmethod
    def of(cls, folder: Path) -> ModelFlops:
        """Read from ``config.json``."""
        config = json.loads((folder / "config.json").read_bytes())
        width, inner, heads = (
            config["hidden_size"],
            config["intermediate_size"],
            config["num_attention_heads"],
        )
        head_width = config.get("head_dim") or width // heads
        key_heads = config.get("num_key_value_heads") or heads
        attention = 2 * width * head_width * (heads + key_heads)  # query and output, key and value
        weights = attention + 3 * width * inner
        return cls(config["num_hidden_layers"], 2 * weights, 4 * heads * head_width)

    def sequence(self, length: int, *, after: int = 0) -> int:
        """A causal sequence of ``length`` tokens that continues ``after`` tokens already computed."""
        pairs = length * after + length * (length + 1) // 2
        return self.layers * (length * self.per_token + pairs * self.per_pair)

    def whole(self, lengths: Iterable[int]) -> int:
        """Every sequence on its own."""
        return sum(self.sequence(length) for length in lengths)

    def shared(self, prefix: int, rows: Iterable[int]) -> int:
        """A prefix computed once, and rows that continue it."""
        return self.sequence(prefix) + sum(self.sequence(row, after=prefix) for row in rows)
