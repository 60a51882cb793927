"""The two stages that train: write a job, launch its ranks, keep the log."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from icl_embed.config import LaunchConfig, OptimizerConfig, RerankConfig, TrainConfig
from icl_embed.errors import TrainingError
from icl_embed.launch.launcher import launch
from icl_embed.model.settings import EmbedderSettings
from icl_embed.pipeline.run import Run
from icl_embed.pipeline.stages.score import opened
from icl_embed.store import StageKey
from icl_embed.train.job import EmbedderJob, Job, write_job
from icl_embed.train.learning import idle_steps
from icl_embed.train.metrics import METRICS_NAME, read_metrics
from icl_embed.train.reranker.batches import RerankerJob

logger = logging.getLogger(__name__)

OnLine = Callable[[str], None]


def build_embedder(run: Run, key: StageKey, out_dir: Path, on_line: OnLine | None) -> Mapping[str, Any]:
    """Train the embedder in a subprocess; a killed run resumes from its work folder."""
    train = TrainConfig(
        **{
            **key.settings["train"],
            "launch": run.config.train.launch,
            "tokenizer_workers": run.config.train.tokenizer_workers,
            "optimizer": _with_checkpointing(key.settings["train"]["optimizer"], run.config.train.optimizer),
        }
    )
    job = EmbedderJob(
        **_common(run, key, out_dir), train=train, settings=EmbedderSettings(**key.settings["embedder"])
    )
    counts = _run_job("icl_embed.train.embedder", job, train.launch, on_line)
    if train.examples.wanted and not counts["examples_used"]:
        raise TrainingError(
            "no query saw a single example during training although train.examples asks for up to "
            f"{train.examples.wanted}; raise the prompt's token budgets"
        )
    return counts


def build_reranker(run: Run, key: StageKey, out_dir: Path, on_line: OnLine | None) -> Mapping[str, Any]:
    """Distil the reranker in a subprocess."""
    mine = run.config.rerank
    rerank = RerankConfig(
        **{
            **key.settings["rerank"],
            "launch": mine.launch,
            "optimizer": _with_checkpointing(key.settings["rerank"]["optimizer"], mine.optimizer),
        }
    )
    job = RerankerJob(**_common(run, key, out_dir), rerank=rerank)
    return _run_job("icl_embed.train.reranker", job, rerank.launch, on_line)


def _common(run: Run, key: StageKey, out_dir: Path) -> dict[str, Any]:
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


def _with_checkpointing(settings: Mapping[str, Any], mine: OptimizerConfig) -> OptimizerConfig:
    """The optimizer of the key, with this run's checkpoint habits, which change no result."""
    return OptimizerConfig(
        **{**settings, "save_every": mine.save_every, "keep_checkpoints": mine.keep_checkpoints}
    )


def _run_job(module: str, job: Job, launch_config: LaunchConfig, on_line: OnLine | None) -> Mapping[str, Any]:
    job.work_dir.mkdir(parents=True, exist_ok=True)
    path = write_job(job, job.work_dir / "job.json")
    launch(module, path, job.work_dir, launch_config, on_line or logger.info)
    shutil.copy(job.work_dir / METRICS_NAME, job.out_dir / METRICS_NAME)
    return summarise(read_metrics(job.out_dir / METRICS_NAME))


def summarise(lines: list[dict[str, Any]]) -> dict[str, Any]:
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
