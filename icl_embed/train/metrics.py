"""The training log: a JSON object per step and dev measurement, cut back to the checkpoint on resuming."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from icl_embed.errors import DataError
from icl_embed.store.files import write_atomically

METRICS_NAME = "metrics.jsonl"


class MetricsLog:
    """Append-only JSON lines, each with the step that it belongs to."""

    def __init__(self, path: Path, first_step: int) -> None:
        self.path = path
        kept = [line for line in read_metrics(path) if line["step"] <= first_step]
        # Whole or not at all: on a full disk the steps before the checkpoint would be lost for good.
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(dict(line)) + "\n")


def step_lines(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lines of a log that say what a step did."""
    return [line for line in lines if "loss" in line]


def dev_lines(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lines of a log that say what was measured on dev splits, in the order of the steps.

    A run that was stopped before its checkpoint may have measured a step twice; it found the same.
    """
    return list({line["step"]: line for line in lines if "dev_few_shot" in line}.values())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a log, none if there is no file; a last line cut by a crash is left out.

    Raises
        DataError: a whole line is not a JSON object.
    """
    if not path.exists():
        return []
    lines = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            lines.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}:{number} is not a JSON object: {error}") from error
    return lines
