"""Variants of a run: every combination of a few alternative settings, compared in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from icl_embed.errors import ConfigError
from icl_embed.pipeline.run import Run, open_run
from icl_embed.pipeline.stages.score import TRAINED
from icl_embed.store import Artefact, StageKey

TABLE_NAME = "ablation.md"


SEED = "train.seed="


@dataclass(frozen=True)
class Variant:
    """One combination of settings, and the run that has them.

    Attributes
        label: the settings without the seed: those that differ in it alone are one row of the table.
    """

    label: str
    run: Run

    @property
    def scores(self) -> list[StageKey]:
        """The scores of its trained embedder; the baselines are the same for all variants."""
        return list(self.run.keys.all_scores(TRAINED))


def open_variants(preset: str, overrides: Sequence[str], vary: Sequence[str]) -> list[Variant]:
    """All combinations, each checked before any of them runs.

    Parameters
        vary: alternatives of one setting each, e.g. ``model.pooling=last|mean``.

    Raises
        ConfigError: nothing to vary, an alternative that is no valid setting, or alternatives that conflict.
    """
    if not vary:
        raise ConfigError("nothing to compare; give alternatives such as --vary 'model.pooling=last|mean'")
    axes = []
    for one in vary:
        name, found, values = one.partition("=")
        if not found or not all(values.split("|")):
            raise ConfigError(f"expected setting=first|second, found {one!r}")
        axes.append([f"{name}={value}" for value in values.split("|")])
    return [
        Variant(
            ", ".join(_short(setting) for setting in chosen if not setting.startswith(SEED)),
            open_run(preset, [*overrides, *chosen]),
        )
        for chosen in product(*axes)
    ]


def build_ablation(variants: Sequence[Variant]) -> Artefact:
    """The table over variants whose embedders and scores exist."""
    run = variants[0].run
    inputs = {
        f"{number} {variant.label}: {key.label}": key.reference
        for number, variant in enumerate(variants)
        for key in (variant.run.keys.embedder, *variant.scores)
    }
    settings = {"variants": [variant.label for variant in variants]}
    key = StageKey("ablation", 3, settings, inputs, run.config.preset)
    return run.store.build(key, lambda out_dir: _write_table(variants, out_dir))


def _write_table(variants: Sequence[Variant], out_dir: Path) -> Mapping[str, Any]:
    from icl_embed.evaluation.measurement import Bootstrap
    from icl_embed.report.variants import VariantResult, ablation_table

    config = variants[0].run.config
    results = [
        VariantResult(
            variant.label,
            variant.run.artefact(variant.run.keys.embedder).path,
            [variant.run.artefact(key).path for key in variant.scores],
        )
        for variant in variants
    ]
    how = Bootstrap(config.evaluate.bootstrap_resamples, config.evaluate.confidence, config.seed)
    (out_dir / TABLE_NAME).write_text(ablation_table(results, how), encoding="utf-8")
    return {"variants": len(variants)}


def _short(setting: str) -> str:
    """``model.pooling=last`` → ``pooling=last``."""
    name, _, value = setting.partition("=")
    return f"{name.rsplit('.', 1)[-1]}={value}"
