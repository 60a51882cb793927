"""The lightweight reranker."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from icl_embed.config.base import Count, CountOrZero, Section
from icl_embed.config.training import LaunchConfig, LoraConfig, OptimizerConfig


class RerankConfig(Section):
    """The lightweight reranker: heads at several layers, passage tokens compressed (paper section 3.4)."""

    start_layer: Count = Field(4, description="first layer with a head")
    layer_step: Count = Field(2, description="a head every so many layers, and always at the last")
    compress_layers: tuple[int, ...] = Field((4,), description="compression happens entering these layers")
    compress_ratio: Literal[1, 2, 4, 8] = 2
    compress_ratios_trained: tuple[Literal[1, 2, 4, 8], ...] = (1, 2, 4)
    cutoff_layer: CountOrZero = Field(
        0, description="exit used for the lightweight score; 0 picks the middle"
    )
    num_negatives: Count = Field(7, description="hard negatives per query")
    num_easy_negatives: CountOrZero = Field(
        0, description="positives of other queries of the batch; a short training run learns from these first"
    )
    max_tokens: Count = 256
    batch_size: Count = Field(8, description="queries per step over all ranks")
    batch_tokens: Count = Field(8192, description="padded tokens per forward pass")
    distillation_weight: float = Field(1.0, ge=0.0)
    top_k: Count = Field(50, description="first-stage passages that are reranked")
    max_queries: Count = Field(200, description="test queries per data set")
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    launch: LaunchConfig = LaunchConfig()

    @model_validator(mode="after")
    def _batch_divides(self) -> RerankConfig:
        ranks = self.launch.processes * self.launch.nodes
        if self.batch_size % ranks:
            raise ValueError(f"batch_size ({self.batch_size}) must divide by the number of ranks ({ranks})")
        return self
