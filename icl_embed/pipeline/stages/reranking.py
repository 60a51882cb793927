"""Stages ``reranker-choice`` and ``reranker-evaluation``: how to rerank, and what it is worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import RANKING_KINDS, RerankConfig, RunConfig, identity
from icl_embed.errors import ConfigError
from icl_embed.model.dtype import name_dtype
from icl_embed.progress import tell
from icl_embed.sources.card import Card
from icl_embed.store import StageKey

if TYPE_CHECKING:
    from icl_embed.evaluation.measurement import Bootstrap
    from icl_embed.pipeline.run import Run


CHOICE, EVALUATION = "reranker-choice", "reranker-evaluation"
VERSIONS = {CHOICE: 2, EVALUATION: 3}


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
    return list(tune.datasets) or split_off[: tune.max_datasets or None]


def reranker_choice_key(config: RunConfig, reranker: StageKey, tuning: Iterable[StageKey]) -> StageKey:
    """The way to rerank that loses little on development queries."""
    settings = _measuring(config, "max_queries", "cutoff_layer")
    settings["rerank"]["tune"] = identity(config.rerank.tune, "enabled", "datasets", "max_datasets")
    inputs = {"reranker": reranker.reference, **{key.label: key.reference for key in tuning}}
    return StageKey(CHOICE, VERSIONS[CHOICE], settings, inputs, config.preset)


def reranker_evaluation_key(
    config: RunConfig, reranker: StageKey, choice: StageKey | None, first_stages: Iterable[StageKey]
) -> StageKey:
    """The reranked test queries of every ranking task, with BM25 beside them."""
    chosen = {"choice": choice.reference} if choice else {}
    ranked = {key.label: key.reference for key in first_stages}
    inputs = {"reranker": reranker.reference, **chosen, **ranked}
    return StageKey(EVALUATION, VERSIONS[EVALUATION], _measuring(config, "tune"), inputs, config.preset)


def _measuring(config: RunConfig, *left_out: str) -> dict[str, Any]:
    return {
        "rerank": identity(config.rerank, "lora", "base", *left_out),
        "evaluate": {name: getattr(config.evaluate, name) for name in ("bootstrap_resamples", "confidence")},
        "dtype": name_dtype(config.model.dtype),
        "seed": config.seed,
    }


def build_reranker_choice(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Choose how to rerank, on the development queries of the embedder's dev scores."""
    from icl_embed.evaluation.reranker.tuning import tune_reranker

    return tune_reranker(
        run.input(key, "reranker").path,
        [run.input(key, role).path for role in key.inputs if role != "reranker"],
        RerankConfig(**key.settings["rerank"]),
        out_dir,
        seed=key.settings["seed"],
        bootstrap=_bootstrap(key),
        progress=tell,
        dtype=key.settings["dtype"],
        engine=run.config.engine,
    )


def build_reranker_evaluation(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Rerank the embedder's top passages of every ranking task."""
    from icl_embed.evaluation.reranker.evaluate import evaluate_reranker
    from icl_embed.evaluation.scores import BM25, read_scores

    scored = [run.input(key, role).path for role in key.inputs if role not in ("reranker", "choice")]
    bm25 = [path for path in scored if read_scores(path).model == BM25]
    return evaluate_reranker(
        run.input(key, "reranker").path,
        [path for path in scored if path not in bm25],
        RerankConfig(**key.settings["rerank"]),
        out_dir,
        seed=key.settings["seed"],
        bootstrap=_bootstrap(key),
        progress=tell,
        bm25=bm25,
        choice=run.input(key, "choice").path if "choice" in key.inputs else None,
        dtype=key.settings["dtype"],
        engine=run.config.engine,
    )


def _bootstrap(key: StageKey) -> Bootstrap:
    from icl_embed.evaluation.measurement import Bootstrap

    evaluate = key.settings["evaluate"]
    return Bootstrap(evaluate["bootstrap_resamples"], evaluate["confidence"], key.settings["seed"])
