"""The training log: one JSON object per step, cut back to the checkpoint when a run resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from icl_embed.errors import DataError
from icl_embed.store.files import write_atomically

METRICS_NAME = "metrics.jsonl"


class MetricsLog:
    """Append-only JSON lines with one line per step."""

    def __init__(self, path: Path, first_step: int) -> None:
        self.path = path
        kept = [line for line in read_metrics(path) if line["step"] <= first_step]
        # Whole or not at all: on a full disk the steps before the checkpoint would be lost for good.
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def write(self, line: dict[str, Any]) -> None:
        """Append one step."""
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")


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
