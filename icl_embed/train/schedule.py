"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from icl_embed.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Linear warm-up, then constant, linear to zero, or half a cosine to zero. Steps count from 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    span = max(1, config.steps - config.warmup_steps)
    left = 1.0 - (step - config.warmup_steps) / span
    if config.schedule == "linear":
        return config.learning_rate * left
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))
