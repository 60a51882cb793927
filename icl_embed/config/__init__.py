"""The one typed config tree.

Everything a run depends on is here and nowhere else. Models are frozen, refuse unknown keys, NaN and
infinity, so a mistake is found when the config is read and not an hour later. A preset states only what
differs from the defaults; the resolved tree is stored with every artefact.
"""

from __future__ import annotations

from icl_embed.config.base import (
    LABEL_KINDS,
    POSITIVE_SHARE,
    RANKING_KINDS,
    SYMMETRIC_KINDS,
    Count,
    CountOrZero,
    Fraction,
    Kind,
    Section,
    identity,
    restored,
    untouched,
)
from icl_embed.config.data import DataConfig, NegativesConfig, PathsConfig, PoolConfig
from icl_embed.config.evaluation import EvaluateConfig, ExampleStrategy, SelectionConfig, SettingsConfig
from icl_embed.config.model import (
    ONE_HERE,
    BaseModelConfig,
    EngineConfig,
    EngineName,
    ModelConfig,
    Pooling,
    PromptConfig,
    TemplateConfig,
)
from icl_embed.config.reranking import PAIR_PROMPTS, PromptPlace, RerankConfig, TuneConfig
from icl_embed.config.run import RunConfig
from icl_embed.config.teacher import TeacherConfig
from icl_embed.config.training import (
    DevConfig,
    ExamplesConfig,
    KindRule,
    LaunchConfig,
    LoraConfig,
    OptimizerConfig,
    TrackerName,
    TrainConfig,
)

__all__ = [
    "LABEL_KINDS",
    "ONE_HERE",
    "PAIR_PROMPTS",
    "POSITIVE_SHARE",
    "RANKING_KINDS",
    "SYMMETRIC_KINDS",
    "BaseModelConfig",
    "Count",
    "CountOrZero",
    "DataConfig",
    "DevConfig",
    "EngineConfig",
    "EngineName",
    "EvaluateConfig",
    "ExampleStrategy",
    "ExamplesConfig",
    "Fraction",
    "Kind",
    "KindRule",
    "LaunchConfig",
    "LoraConfig",
    "ModelConfig",
    "NegativesConfig",
    "OptimizerConfig",
    "PathsConfig",
    "PoolConfig",
    "Pooling",
    "PromptConfig",
    "PromptPlace",
    "RerankConfig",
    "RunConfig",
    "Section",
    "SelectionConfig",
    "SettingsConfig",
    "TeacherConfig",
    "TemplateConfig",
    "TrackerName",
    "TrainConfig",
    "TuneConfig",
    "identity",
    "restored",
    "untouched",
]
