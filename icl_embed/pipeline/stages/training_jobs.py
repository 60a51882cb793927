"""What the stages that train have in common: a job is written, its ranks are launched, the log is kept."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import LaunchConfig
from icl_embed.launch.launcher import launch
from icl_embed.pipeline.stages.score import opened
from icl_embed.store import StageKey
from icl_embed.train.job import Job, write_job
from icl_embed.train.learning import idle_steps
from icl_embed.train.metrics import METRICS_NAME, read_metrics, step_lines
from icl_embed.train.trackers import FOLDER as TENSORBOARD

if TYPE_CHECKING:
    from icl_embed.pipeline.run import Run


logger = logging.getLogger(__name__)

OnLine = Callable[[str], None]


def training_inputs(base: StageKey, negatives: StageKey, teacher: StageKey | None) -> dict[str, str]:
    """What a training learns from, by role."""
    inputs = {"base-model": base.reference, "negatives": negatives.reference}
    return inputs if teacher is None else inputs | {"teacher": teacher.reference}


def common_settings(run: Run, key: StageKey, out_dir: Path) -> dict[str, Any]:
    """What every job is told."""
    opened.cache_clear()  # a model that was scored last would take the memory that training needs
    return {
        "fingerprint": key.fingerprint,
        "seed": key.settings["seed"],
        "dtype": key.settings["dtype"],
        "model_dir": run.input(key, "base-model").path.absolute(),
        "rows_path": (run.input(key, "negatives").path / "train.parquet").absolute(),
        "work_dir": run.store.work_dir(key).absolute(),
        "out_dir": out_dir.absolute(),
        "teacher_dir": run.input(key, "teacher").path.absolute() if "teacher" in key.inputs else None,
    }


def run_job(module: str, job: Job, launch_config: LaunchConfig, on_line: OnLine | None) -> Mapping[str, Any]:
    """Run a training in processes of its own; returns the figures of its log."""
    job.work_dir.mkdir(parents=True, exist_ok=True)
    path = write_job(job, job.work_dir / "job.json")
    launch(module, path, job.work_dir, launch_config, on_line or logger.info)
    shutil.copy(job.work_dir / METRICS_NAME, job.out_dir / METRICS_NAME)
    if (job.work_dir / TENSORBOARD).is_dir():
        shutil.copytree(job.work_dir / TENSORBOARD, job.out_dir / TENSORBOARD)
    return summarise(step_lines(read_metrics(job.out_dir / METRICS_NAME)))


def summarise(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of a training log that a listing shows."""
    last = lines[-10:]
    return {
        "steps": len(lines),
        "first_loss": round(lines[0]["loss"], 4),
        "last_loss": round(sum(line["loss"] for line in last) / len(last), 4),
        "train_seconds": round(sum(line["seconds"] for line in lines), 1),
        "idle_steps": idle_steps(lines),  # which taught nothing
        "queries_without_negative": round(
            sum(line.get("without_negative_per_query", 0.0) for line in lines) / len(lines), 4
        ),
        "examples_used": round(sum(line.get("examples_per_query", 0.0) for line in lines), 2),
    }
