"""A process that does with the rows what a rank does before and between its forward passes, in old code and new.

Run by its path, with the code under test in ``PYTHONPATH``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from icl_embed.config import TrainConfig
from icl_embed.launch.processes import children_of
from icl_embed.prompts import PromptBuilder
from icl_embed.train import rows as rows_module
from icl_embed.train.embedder.batches import refuse_nothing_to_learn
from icl_embed.train.embedder.prefetch import prepare_ahead
from icl_embed.train.embedder.prepare import StepBuilder

FIRST_STEPS = 10  # are not timed: files are opened, rows shuffled, workers started


def read_sets(request: dict[str, Any]) -> Sequence[Any]:
    """The rows as the code under test reads them."""
    path = Path(request["rows"])
    if hasattr(rows_module, "read_taught_sets"):
        return list(rows_module.read_taught_sets(path, None))
    return list(rows_module.read_training_sets(path, Path(request["work"])))


def main(request: dict[str, Any]) -> dict[str, float]:
    """Read, and prepare steps unless the rows are only copied."""
    started = time.perf_counter()
    sets = read_sets(request)
    if request["way"] == "copy":
        return {"seconds": round(time.perf_counter() - started, 1)}
    config = TrainConfig.model_validate({**request["setting"], "optimizer": {"steps": request["steps"]}})
    refuse_nothing_to_learn(sets, config)
    prompts = PromptBuilder(AutoTokenizer.from_pretrained(request["model"]), config.prompt)
    builder = StepBuilder(prompts, sets, config, seed=1)
    with prepare_ahead(builder, int(request["way"] == "worker")) as prepare:
        for step in range(FIRST_STEPS):
            prepare(step)
            if not step:
                first = time.perf_counter() - started
        timed, worked = time.perf_counter(), cpu_seconds()
        for step in range(FIRST_STEPS, request["steps"]):
            prepare(step)
        seconds, work = time.perf_counter() - timed, cpu_seconds() - worked
        time.sleep(0.1)  # whoever watches looks once more
    steps = request["steps"] - FIRST_STEPS
    return {
        "steps_per_second": steps / seconds,
        "steps_per_cpu_second": steps / work,
        "seconds_to_first_step": first,
    }


def cpu_seconds() -> float:
    """What this process and its worker have computed so far: other processes of the machine do not count."""
    ticks = 0
    for pid in (os.getpid(), *children_of(os.getpid())):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_bytes())
    Path(asked["outcome"]).write_text(json.dumps(main(asked)), encoding="utf-8")
