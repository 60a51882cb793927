"""One run of our trainer, as a user's job: ``python -m icl_embed.train job.json``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from icl_embed.config import PromptConfig, TemplateConfig, TrainConfig
from icl_embed.model.settings import EmbedderSettings
from icl_embed.train.job import EmbedderJob, write_job
from icl_embed.train.metrics import METRICS_NAME, read_metrics
from tests.bench.measured import run_measured
from tests.bench.train_setting import Outcome, Setting


def train_ours(
    folder: Path, model: Path, rows: Path, setting: Setting, *, dtype: str = "float32", **train: Any
) -> Outcome:
    """Train in a process of its own.

    Parameters
        rows: a ``train.parquet``.
        train: further fields of TrainConfig, e.g. ``examples={"sharing": "per_group"}``.
    """
    config = _config(setting, train)
    job = EmbedderJob(
        fingerprint="bench",
        seed=setting.seed,
        model_dir=model,
        rows_path=rows,
        work_dir=folder / "work",
        out_dir=folder / "out",
        dtype=dtype,
        train=config,
        settings=EmbedderSettings(template=TemplateConfig(special_tokens=True), prompt=config.prompt),
    )
    path = write_job(job, folder / "job.json")
    peak = run_measured([sys.executable, "-m", "icl_embed.train.embedder", str(path)], {}, folder / "log.txt")
    return replace(_outcome(read_metrics(job.work_dir / METRICS_NAME), setting), peak_mib=peak)


def _config(setting: Setting, train: dict[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "batch_size": setting.batch_size,
            "num_negatives": setting.num_negatives,
            "temperature": setting.temperature,
            "prompt": PromptConfig(
                query_tokens=setting.query_tokens,
                passage_tokens=setting.passage_tokens,
                total_tokens=setting.total_tokens,
                example_query_tokens=setting.example_tokens,
                example_response_tokens=setting.example_tokens,
            ),
            "lora": {"rank": setting.lora_rank, "alpha": setting.lora_alpha, "dropout": 0.0},
            "optimizer": {"steps": setting.steps, "save_every": setting.steps, "learning_rate": setting.learning_rate},
            "launch": {"processes": 1, "device": "cpu", "threads": setting.threads},
            **train,
        }
    )  # fmt: skip


def _outcome(lines: list[dict[str, Any]], setting: Setting) -> Outcome:
    timed = lines[1:] or lines
    return Outcome(
        queries_per_second=len(timed) * setting.batch_size / sum(line["seconds"] for line in timed),
        useful_token_share=fmean(line["useful_token_share"] for line in lines),
        examples_per_query=fmean(line["examples_per_query"] for line in lines),
    )
