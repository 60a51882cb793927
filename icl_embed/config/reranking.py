"""The lightweight reranker, and how its lightweight way is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field, model_validator

from icl_embed.config.base import ADDED_LATER, NO_RESULT, Count, CountOrZero, Section
from icl_embed.config.model import BaseModelConfig
from icl_embed.config.training import LaunchConfig, LoraConfig, OptimizerConfig


class TuneConfig(Section):
    """The cheapest exit, width and cascade that loses little on development queries."""

    enabled: bool = Field(
        True, description="choose on dev splits; otherwise cutoff_layer and compress_ratio are used"
    )
    datasets: tuple[str, ...] = Field(
        (), description="whose dev splits; empty: every ranking training set whose card splits off a dev part"
    )
    max_datasets: CountOrZero = Field(0, description="only the first of those, in data.train's order; 0: all")
    max_loss: float = Field(
        2.0, ge=0.0, le=100.0, description="nDCG@10 points that may be lost against full depth"
    )
    safe: bool = Field(
        True, description="hold the interval's upper end to max_loss; otherwise the mean loss alone"
    )
    cascades: bool = Field(True, description="also carry only the promising passages on to a later exit")
    max_queries: Count = Field(200, description="development queries per data set")


# What is asked about a pair (paper, appendix D).
PAIR_PROMPTS: Mapping[str, str] = MappingProxyType(
    {
        "answer": "Predict whether passage B contains an answer to query A.",
        "meaning": "Predict whether passages A and B have the same meaning.",
        "question": "Predict whether queries A and B are asking the same thing.",
        "counterargument": "Predict whether argument A and counterargument B express contradictory opinions.",
    }
)

PromptPlace = Literal["after", "before"]


class RerankConfig(Section):
    """The lightweight reranker: heads at several layers, passage tokens compressed (paper section 3.4)."""

    base: Annotated[BaseModelConfig | None, ADDED_LATER] = Field(
        None, description="a base model of its own; unset: the run's"
    )
    num_layers: CountOrZero = Field(
        0, description="keep only so many of the base model's layers; 0 keeps those that the run keeps"
    )
    start_layer: Count = Field(4, description="first layer with a head")
    layer_step: Count = Field(2, description="a head every so many layers, and always at the last")
    compress_layers: tuple[int, ...] = Field((4,), description="compression happens entering these layers")
    compress_ratio: Literal[1, 2, 4, 8] = 2
    compress_ratios_trained: tuple[Literal[1, 2, 4, 8], ...] = Field(
        (1, 2, 4), min_length=1, description="each training step draws one"
    )
    compress_pooling: Literal["mean", "attention"] = Field(
        "mean", description="plain means, or weighted by the last token's attention (Matryoshka)"
    )
    compress_subsets: bool = Field(
        False, description="each training step compresses at a random part of compress_layers (Matryoshka)"
    )
    cutoff_layer: CountOrZero = Field(
        0, description="exit used for the lightweight score; 0 picks the middle"
    )
    num_negatives: Count = Field(7, description="hard negatives per query")
    num_easy_negatives: CountOrZero = Field(
        0, description="positives of other queries of the batch; a short training run learns from these first"
    )
    max_tokens: Count = 256
    prompt: str = Field(
        "answer", description="what is asked: answer, meaning, question, counterargument, or a sentence"
    )
    prompt_place: PromptPlace = Field(
        "after",
        description="after the passage (paper), or before the query, where one copy serves all candidates",
    )
    batch_size: Count = Field(8, description="queries per step over all ranks")
    batch_tokens: Count = Field(8192, description="padded tokens per forward pass")
    contrastive_weight: float = Field(1.0, ge=0.0, description="of ranking the positive first (paper: 1)")
    self_distillation: Literal["none", "final", "uncompressed"] = Field(
        "uncompressed",
        description="whom every head imitates: nobody, the final head of the same pass (paper), or that of "
        "an extra pass without compression (Matryoshka)",
    )
    distillation_weight: float = Field(1.0, ge=0.0, description="of self-distillation (paper: 1)")
    teacher_weight: float = Field(1.0, ge=0.0, description="of a teacher's scores, where there are any")
    head_rate: float = Field(
        1.0, gt=0.0, description="learning rate of the score heads, in units of optimizer.learning_rate"
    )
    tuning: Literal["lora", "full"] = "lora"
    top_k: Count = Field(50, description="first-stage passages that are reranked")
    max_queries: Count = Field(200, description="test queries per data set")
    tune: TuneConfig = TuneConfig()
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    launch: Annotated[LaunchConfig, NO_RESULT] = LaunchConfig()

    @property
    def prompt_sentence(self) -> str:
        """The prompt as the model reads it."""
        return PAIR_PROMPTS.get(self.prompt, self.prompt)

    @model_validator(mode="after")
    def _prompt_is_a_sentence(self) -> RerankConfig:
        if self.prompt not in PAIR_PROMPTS and " " not in self.prompt.strip():
            raise ValueError(
                f"prompt is {self.prompt!r}; expected a sentence, or one of {', '.join(PAIR_PROMPTS)}"
            )
        return self

    @model_validator(mode="after")
    def _something_is_learned(self) -> RerankConfig:
        if not (self.contrastive_weight or self.teacher_weight):
            raise ValueError("contrastive_weight and teacher_weight are both 0: no head would learn to rank")
        return self

    @model_validator(mode="after")
    def _weights_stay_whole(self) -> RerankConfig:
        if self.optimizer.spreads_weights:
            raise ValueError("the reranker runs its layers one by one: use optimizer.zero_stage 0, 1 or 2")
        return self

    @model_validator(mode="after")
    def _attention_comes_first(self) -> RerankConfig:
        if self.compress_pooling == "attention" and 0 in self.compress_layers:
            raise ValueError("compress_pooling is attention: compress_layers must start at 1 or deeper")
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> RerankConfig:
        ranks = self.launch.processes * self.launch.nodes
        if self.batch_size % ranks:
            raise ValueError(f"batch_size ({self.batch_size}) must divide by the number of ranks ({ranks})")
        return self
