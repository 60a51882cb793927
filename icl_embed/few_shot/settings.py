"""How a task is asked: with how many examples, drawn how, of which quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from icl_embed.config import EvaluateConfig, ExampleStrategy

ZERO_SHOT = "zero-shot"
FEW_SHOT = "few-shot"
CLEAN = "clean"
OFF_TASK = "off-task"


@dataclass(frozen=True, order=True)
class AskedSetting:
    """One setting of a run, before its examples are known.

    Attributes
        shots: examples shown before each query; 0 is zero-shot, and then nothing else matters.
        selection: the strategy that chooses them.
        seed: of the draw.
        quality: ``clean``, or the name of a corruption (``icl_embed.experiments.corruptions``).
    """

    shots: int
    selection: ExampleStrategy = "random"
    seed: int = 0
    quality: str = CLEAN

    @property
    def name(self) -> str:
        """Short and unique within a task: ``zero-shot``, ``5-shot``, ``5-shot nearest seed 2 shuffled``."""
        if not self.shots:
            return ZERO_SHOT
        parts = [f"{self.shots}-shot"]
        parts += [self.selection] if self.selection != "random" else []
        parts += [f"seed {self.seed}"] if self.seed else []
        parts += [self.quality] if self.quality != CLEAN else []
        return " ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """For keys and files."""
        return asdict(self)


def settings_of_run(config: EvaluateConfig) -> list[AskedSetting]:
    """The settings in which a run asks its tasks."""
    asked = config.settings
    return settings_of(
        asked.shots or (0, config.shots),
        asked.strategies or (config.examples_strategy,),
        asked.seeds or (config.example_seed,),
    )


def main_settings(config: EvaluateConfig) -> list[AskedSetting]:
    """Zero-shot, and the few-shot setting that choices are made by and reports speak of."""
    return [AskedSetting(0), AskedSetting(config.shots, config.examples_strategy, config.example_seed)]


def placebo_setting(config: EvaluateConfig) -> AskedSetting:
    """As many examples as in the few-shot setting, of another task: what the form of a prompt is worth."""
    return AskedSetting(config.shots, "random", config.example_seed, OFF_TASK)


def settings_of(
    shots: Sequence[int], selections: Sequence[ExampleStrategy], seeds: Sequence[int]
) -> list[AskedSetting]:
    """Every combination; zero-shot appears once, whatever the strategies and seeds."""
    found = {
        AskedSetting(0) if not count else AskedSetting(count, selection, seed)
        for count, selection, seed in product(shots, selections, seeds)
    }
    return sorted(found)
