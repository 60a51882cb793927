"""From the name of a strategy to a way to ask: examples for all queries, or a chooser for each."""

from __future__ import annotations

from icl_embed.config import EvaluateConfig, ExampleStrategy
from icl_embed.errors import ConfigError
from icl_embed.evaluate.encoding import Setting
from icl_embed.evaluate.scores import FEW_SHOT
from icl_embed.selection.candidates import Candidates
from icl_embed.selection.nearest import NearestExamples
from icl_embed.selection.one_set import choose_balanced, choose_diverse, choose_fixed, choose_random


def choose_setting(
    strategy: ExampleStrategy, candidates: Candidates, config: EvaluateConfig, *, seed: int
) -> Setting:
    """The few-shot setting that a strategy without search gives.

    Raises
        ConfigError: ``search`` was asked for, which needs a ``Workbench``; or options contradict each other.
    """
    shots, options = config.shots, config.selection
    if strategy == "nearest":
        chooser = NearestExamples(
            candidates,
            shots,
            by=options.nearest_by,
            max_sets=options.max_sets,
            relevance_share=options.relevance_share,
            seed=seed,
        )
        return Setting(FEW_SHOT, candidates.instruction, choose=chooser)
    if strategy == "fixed":
        positions = choose_fixed(candidates, shots, seed=seed)
    elif strategy == "random":
        positions = choose_random(candidates, shots, seed=seed)
    elif strategy == "balanced":
        positions = choose_balanced(candidates, shots, seed=seed)
    elif strategy == "diverse":
        positions = choose_diverse(
            candidates, shots, method=options.diverse_by, relevance_share=options.relevance_share
        )
    else:
        raise ConfigError("the strategy search needs development queries; use Workbench.search")
    return Setting(FEW_SHOT, candidates.instruction, candidates.examples(positions))
