"""What names an artefact: the stage, its version, the config it depends on, and its inputs.

The fingerprint is a hash of exactly these, so the same work has the same name on every machine, and two
keys can be compared part by part to say *why* a stage must run again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FINGERPRINT_LENGTH = 16  # 64 bits: a store holds thousands of artefacts, not billions


@dataclass(frozen=True)
class StageKey:
    """The identity of one artefact.

    Attributes
        stage: folder name in the store, e.g. ``pool``.
        version: raised by hand when the stage's code changes what it produces.
        settings: JSON-able slice of the config, only what the stage reads.
        inputs: role -> fingerprint of each input artefact.
        label: a human name for listings (a data set, a model); not part of the fingerprint.
    """

    stage: str
    version: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    label: str = ""

    @property
    def fingerprint(self) -> str:
        """Hash of stage, version, settings and inputs."""
        text = canonical_json(self.parts())
        return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_LENGTH]

    @property
    def reference(self) -> str:
        """``stage/fingerprint``: how artefacts are named in inputs, messages and Prefect results."""
        return f"{self.stage}/{self.fingerprint}"

    def parts(self) -> dict[str, Any]:
        """The hashed parts, as JSON types."""
        return {
            "stage": self.stage,
            "version": self.version,
            "settings": dict(self.settings),
            "inputs": dict(self.inputs),
        }


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; refuses NaN and anything that is not plain data."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def explain_difference(new: Mapping[str, Any], old: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the parts in which two keys differ, with both values."""
    changes: list[str] = []
    for name in sorted({*new, *old}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changes += explain_difference(after, before, f"{prefix}{name}.")
        elif json.dumps(before) != json.dumps(after):
            changes.append(f"{prefix}{name}: {_short(before)} → {_short(after)}")
    return changes


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 48 else text[:45] + "…"
