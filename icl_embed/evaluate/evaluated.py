"""What is evaluated, and what one run of it gave: records that every benchmark shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icl_embed.evaluate.measurement import Measurement


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to evaluate: its name in tables, its fingerprint, its folder."""

    name: str
    fingerprint: str
    folder: Path
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class TaskRun:
    """What one run gave.

    Attributes
        measurement: the values; their aggregate equals ``main_score``.
        main_score: as the benchmark's own package computes it.
        result: the benchmark's own result, as JSON types.
        ranking: query -> passage -> score (search tasks), else empty.
        notes: facts about how the score was made.
    """

    measurement: Measurement
    main_score: float
    result: dict[str, Any]
    ranking: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unjudged:
    """A run whose relevance judgements are not public: rankings to submit, no score.

    Attributes
        ranking: query -> passage -> score.
    """

    ranking: Mapping[str, Mapping[str, float]]
    notes: Mapping[str, Any] = field(default_factory=dict)
