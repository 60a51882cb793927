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
        prefix: tokens of an example set with the instruction, on average over the queries.
        examples_shown, examples_dropped: examples inside and outside the token budget, per query at most.
    """

    mean: float
    prefix: float
    examples_shown: int
    examples_dropped: int


def count_query_tokens(
    prompts: PromptBuilder | None, texts: Sequence[str], setting: Setting
) -> TokenCount | None:
    """Token statistics of ``texts`` asked under ``setting``; None for a model without prompts of ours."""
    if prompts is None:
        return None
    shared = [
        (prompts.prefix(setting.instruction, examples), len(rows))
        for examples, rows in setting.selection(texts).groups()
    ]
    tails = sum(map(len, prompts.query_tails(setting.instruction, texts)))
    prefix = sum(len(found.tokens) * uses for found, uses in shared) / max(len(texts), 1)
    return TokenCount(
        mean=round(prefix + tails / max(len(texts), 1), 2),
        prefix=round(prefix, 2),
        examples_shown=max((found.num_examples for found, _ in shared), default=0),
        examples_dropped=max((found.num_dropped for found, _ in shared), default=0),
    )
