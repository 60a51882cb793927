"""The whole run."""

from __future__ import annotations

from icl_embed.config.base import Section
from icl_embed.config.data import DataConfig, NegativesConfig, PathsConfig, PoolConfig
from icl_embed.config.evaluation import EvaluateConfig
from icl_embed.config.model import ModelConfig
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
    teacher: TeacherConfig = TeacherConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    rerank: RerankConfig = RerankConfig()
