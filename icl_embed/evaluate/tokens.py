"""How long the prompts of a setting are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from icl_embed.evaluate.encoding import Setting
from icl_embed.prompts import PromptBuilder


@dataclass(frozen=True)
class TokenCount:
    """Token statistics of the queries of a setting.

    Attributes
        mean: tokens of a query with everything before it (instruction, examples), on average.
        prefix: tokens that all queries share.
        examples_shown, examples_dropped: examples inside and outside the token budget.
    """

    mean: float
    prefix: int
    examples_shown: int
    examples_dropped: int


def count_query_tokens(prompts: PromptBuilder, texts: Sequence[str], setting: Setting) -> TokenCount:
    """Token statistics of ``texts`` asked under ``setting``."""
    prefix = prompts.prefix(setting.instruction, setting.examples)
    tails = prompts.query_tails(setting.instruction, texts)
    mean = len(prefix.tokens) + sum(map(len, tails)) / max(len(tails), 1)
    return TokenCount(round(mean, 2), len(prefix.tokens), prefix.num_examples, prefix.num_dropped)
