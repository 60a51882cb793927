"""The keys of the stages that tune and measure the reranker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icl_embed.config import RANKING_KINDS, RunConfig
from icl_embed.errors import ConfigError
from icl_embed.pipeline.key_parts import NO_RESULT, dump, make_key
from icl_embed.sources.card import Card
from icl_embed.store import StageKey

FIRST_STAGES = ("trained", "bm25")  # the systems whose passages are reranked, or compared with


def tuning_sets(config: RunConfig, cards: Mapping[str, Card]) -> list[str]:
    """The data sets whose dev split says how to rerank; none when the config does.

    Raises
        ConfigError: a named data set is not part of the run, or nothing is ranked there.
    """
    tune = config.rerank.tune
    if not tune.enabled:
        return []
    wrong = [name for name in tune.datasets if name not in cards or cards[name].kind not in RANKING_KINDS]
    if wrong:
        raise ConfigError(
            f"rerank.tune.datasets names {', '.join(wrong)}; expected retrieval or reranking sets of "
            "data.train or data.evaluate"
        )
    split_off = [
        name
        for name in config.data.train
        if cards[name].kind in RANKING_KINDS and cards[name].splits.fractions()[1] > 0
    ]
    return list(tune.datasets) or split_off


def reranker_choice_key(config: RunConfig, reranker: StageKey, tuning: Mapping[str, StageKey]) -> StageKey:
    """The way to rerank that loses little on development queries."""
    left_out = {"max_queries": True, "cutoff_layer": True, "tune": {"enabled", "datasets"}}
    inputs = {"reranker": reranker.reference, **{name: key.reference for name, key in tuning.items()}}
    return make_key("reranker-choice", _measuring(config, left_out), inputs, label=config.preset)


def reranker_evaluation_key(
    config: RunConfig,
    cards: Mapping[str, Card],
    reranker: StageKey,
    choice: StageKey | None,
    evaluations: Mapping[tuple[str, str], StageKey],
) -> StageKey:
    """The reranked test queries of every ranking task, with BM25 beside them."""
    ranked = {
        f"{system} on {name}": key.reference
        for (system, name), key in evaluations.items()
        if system in FIRST_STAGES and cards[name].kind in RANKING_KINDS
    }
    chosen = {"choice": choice.reference} if choice else {}
    inputs = {"reranker": reranker.reference, **chosen, **ranked}
    return make_key("reranker-evaluation", _measuring(config, {"tune": True}), inputs, label=config.preset)


def _measuring(config: RunConfig, left_out: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "rerank": dump(config.rerank, {**NO_RESULT, "lora": True, **left_out}),
        "evaluate": dump(config.evaluate),
        "dtype": config.model.dtype,
        "seed": config.seed,
    }
