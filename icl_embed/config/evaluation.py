"""What is measured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from icl_embed.config.base import Count, Section
from icl_embed.config.model import PromptConfig


class EvaluateConfig(Section):
    """What is measured, and how sure we want to be."""

    shots: Count = Field(5, description="examples per task in the few-shot setting")
    example_seed: int = 0
    prompt: PromptConfig = PromptConfig()
    batch_tokens: Count = Field(8192, description="padded tokens per encoding batch")
    label_experiments: Count = Field(10, description="classifiers fitted per data set (mteb's default)")
    cluster_sets: Count = Field(40, description="bootstrap sets of texts that are clustered")
    bootstrap_resamples: Count = 2000
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    baselines: tuple[Literal["bm25", "base"], ...] = ("bm25", "base")
