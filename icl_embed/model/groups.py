"""What goes through the model at once: rows, and the prefix that a group of rows continues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from icl_embed.prompts import Tokens


@dataclass(frozen=True)
class Group:
    """Rows that continue one prefix; without a prefix, rows that have nothing in common.

    A training group holds the prefix as tokens: it is encoded once, with gradient, for all its rows.

    Attributes
        demonstrations: examples that are embedded first; their vectors fill the prefix's slots, in order.
    """

    rows: Sequence[Tokens]
    prefix: Tokens | tuple[()] = ()
    demonstrations: Sequence[Sequence[int]] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens that are computed for the group."""
        return len(self.prefix) + sum(map(len, self.rows)) + sum(map(len, self.demonstrations))
