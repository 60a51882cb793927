"""The whole run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from icl_embed.config.base import Section
from icl_embed.config.data import DataConfig, NegativesConfig, PathsConfig, PoolConfig
from icl_embed.config.evaluation import EvaluateConfig
from icl_embed.config.model import EngineConfig, ModelConfig
from icl_embed.config.reranking import RerankConfig
from icl_embed.config.teacher import TeacherConfig
from icl_embed.config.training import TrainConfig


class RunConfig(Section):
    """The whole run."""

    preset: str = "default"
    seed: int = 13
    paths: PathsConfig = PathsConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    pool: PoolConfig = PoolConfig()
    negatives: NegativesConfig = NegativesConfig()
    engine: EngineConfig = EngineConfig()
    teacher: TeacherConfig = TeacherConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    rerank: RerankConfig = RerankConfig()

    @model_validator(mode="before")
    @classmethod
    def _measured_as_published(cls, told: Any) -> Any:
        """What ``evaluate.prompt`` leaves open is what ``model.prompt`` says."""
        if not isinstance(told, Mapping):
            return told
        model, evaluate = told.get("model", {}), told.get("evaluate", {})
        published, asked = _prompt_in(model), _prompt_in(evaluate)
        if published is None or asked is None:
            return told  # checked already, or about to be refused
        return {**told, "evaluate": {**evaluate, "prompt": {**published, **asked}}}

    @model_validator(mode="after")
    def _learners_weigh_the_teacher(self) -> RunConfig:
        if self.teacher.source == "none":
            return self
        for learner, weight, name in (
            ("reranker", self.rerank.teacher_weight, "rerank.teacher_weight"),
            ("embedder", self.train.distillation_weight, "train.distillation_weight"),
        ):
            if getattr(self.teacher, learner) and not weight:
                raise ValueError(f"teacher.{learner} is on, but {name} is 0; set one of the two")
        return self


def _prompt_in(section: Any) -> Mapping[str, Any] | None:
    """The prompt's table as it was written; nothing where there is none to read."""
    prompt = section.get("prompt", {}) if isinstance(section, Mapping) else None
    return prompt if isinstance(prompt, Mapping) else None
