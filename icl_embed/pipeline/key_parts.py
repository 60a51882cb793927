"""What every stage key is made with: versions of the stages, settings without what changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icl_embed.config import Section
from icl_embed.store import StageKey

VERSIONS: Mapping[str, int] = {
    "base-model": 1,
    "dataset": 2,
    "pool": 2,
    "negatives": 2,
    "embedder": 4,
    "checkpoint": 1,
    "checkpoint-choice": 1,
    "evaluation": 5,
    "teacher-scores": 1,
    "reranker": 2,
    "reranker-choice": 1,
    "reranker-evaluation": 2,
    "report": 1,
}

NO_RESULT = {"launch": True, "optimizer": {"save_every", "keep_checkpoints"}}


def make_key(
    stage: str, settings: Mapping[str, Any], inputs: Mapping[str, str] | None = None, *, label: str
) -> StageKey:
    """The key of a stage at its present version."""
    return StageKey(stage, VERSIONS[stage], settings, inputs or {}, label)


def dump(section: Section, exclude: Any = None) -> dict[str, Any]:
    """A config section as JSON types, without what is excluded."""
    return section.model_dump(mode="json", exclude=exclude)
