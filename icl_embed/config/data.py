"""Where data comes from and how it becomes training pairs, examples and hard negatives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from icl_embed.config.base import (
    ADDED_LATER,
    NO_RESULT,
    Count,
    CountOrZero,
    Fraction,
    LocalPath,
    Section,
)


class PathsConfig(Section):
    """Where things live on this machine. Paths never enter a fingerprint."""

    store: LocalPath = Field(Path("store"), description="artefacts, one verified folder each")
    downloads: LocalPath = Field(Path("downloads"), description="verified source files, safe to delete")
    catalog: LocalPath | None = Field(
        None, description="a folder of extra data cards, beside the built-in ones"
    )


class DataConfig(Section):
    """Which cards are trained on, and which are only evaluated (their domain stays unseen)."""

    train: tuple[str, ...] = Field(
        (), description="names of cards; of a collection its name, COLLECTION/SPLIT, or COLLECTION/PATTERN"
    )
    evaluate: tuple[str, ...] = ()
    max_train_rows: Count = Field(20_000, description="per data set, sampled by row hash")
    max_test_queries: Count = Field(1_000, description="per data set and split, sampled by row hash")
    max_test_passages: Count = Field(20_000, description="positives are kept; distractors sampled by hash")


class PoolConfig(Section):
    """How raw rows become clean, deduplicated, decontaminated training pairs and examples."""

    min_characters: Count = Field(3, description="of a query; a Han, kana or Hangul character counts as two")
    max_characters: Count = Field(20_000, description="of any text; see long_texts")
    long_texts: Literal["drop", "cut"] = Field(
        "drop", description="texts above max_characters: their rows go, or their beginning is kept"
    )
    near_duplicate_threshold: Fraction = Field(0.9, description="MinHash Jaccard of 5-character shingles")
    minhash_permutations: Count = 64
    decontamination_ngram: Count = Field(13, description="words; a shared n-gram removes the training row")
    max_dropped_fraction: Fraction = Field(0.5, description="more rejected rows than this stops the build")
    sampling_temperature: Fraction = Field(
        0.5, description="weight of a data set = rows ** t; 1 proportional, 0 uniform"
    )
    max_examples_per_task: Count = 512


class NegativesConfig(Section):
    """Hard-negative mining (paper section 4.1 uses 7; the window and ceiling are ours)."""

    per_query: CountOrZero = 7
    methods: tuple[Literal["bm25", "dense"], ...] = ("bm25",)
    rank_from: CountOrZero = Field(1, description="first candidate rank that may be taken (0 = best)")
    rank_to: Count = Field(100, description="candidates below this rank are not looked at")
    max_positive_ratio: float = Field(
        0.95, gt=0.0, description="drop candidates scoring above this fraction of the positive's score"
    )
    search: Annotated[Literal["exact", "faiss"], ADDED_LATER] = Field(
        "exact", description="dense: all passages, or FAISS's nearest cells of large data sets (extra mine)"
    )
    faiss_from: Annotated[Count, ADDED_LATER] = Field(
        2_000_000, description="passages of a data set from which on search = faiss takes effect"
    )
    shard_queries: Annotated[Count, NO_RESULT] = Field(
        16_384, description="queries ranked between two writes: what a crash can cost"
    )
