"""Small but complete training jobs: a tiny model, three kinds of rows, one call to run them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from icl_embed.config import TrainConfig
from icl_embed.launch.launcher import launch
from icl_embed.model.settings import EmbedderSettings
from icl_embed.train.job import DevSource, EmbedderJob, write_job
from icl_embed.train.metrics import METRICS_NAME, read_metrics
from tests.tiny_models import WORDS

LABELS = ("red", "green", "blue")


def write_rows(path: Path, *, rows_per_set: int = 40) -> Path:
    """A ``train.parquet`` with a retrieval, a classification and an STS data set.

    A teacher has scored the retrieval rows, all but one negative each, as when one was mined later.
    """
    rng = random.Random(0)

    def text(count: int) -> str:
        return " ".join(rng.sample(WORDS, count))

    rows = []
    for name, kind in (("facts", "retrieval"), ("colours", "classification"), ("pairs", "sts")):
        for number in range(rows_per_set):
            label = rng.choice(LABELS) if kind == "classification" else None
            positive = label or text(9)
            negatives = (
                [other for other in LABELS if other != label] if label else [text(9) for _ in range(4)]
            )
            rows.append(
                {
                    "pair_id": f"{name}-{number}",
                    "dataset": name,
                    "kind": kind,
                    "instruction": f"find {name}",
                    "query": text(5),
                    "positive": positive,
                    "negatives": negatives,
                    "label": label,
                    "response": positive,
                    "positive_score": 90.0 if kind == "retrieval" else None,
                    "negative_scores": [88.0, 70.0, 91.0, None] if kind == "retrieval" else None,
                    "weight": 1 / 3,
                }
            )
    pq.write_table(pa.Table.from_pylist(rows) if rows else pa.table({}), path)
    return path


def write_dev(folder: Path, *, rows: int = 12) -> list[DevSource]:
    """Dataset artefacts of the same three data sets, as far as a dev split goes."""
    rng = random.Random(1)

    def text(count: int) -> str:
        return " ".join(rng.sample(WORDS, count))

    sources = []
    for name, kind in (("facts", "retrieval"), ("colours", "classification"), ("pairs", "sts")):
        home = folder / name
        home.mkdir(parents=True)
        records = [
            {
                "row_id": f"dev-{number}",
                "split": "dev" if number < rows else "test",
                "query": text(5),
                "positives": [] if kind == "classification" else [text(9)],
                "negatives": [],
                "label": rng.choice(LABELS) if kind == "classification" else None,
                "score": float(number % 2) if kind == "sts" else None,
            }
            for number in range(rows + 3)
        ]
        pq.write_table(pa.Table.from_pylist(records), home / "rows.parquet")
        passages = [
            {"passage_id": f"p{number}", "split": record["split"], "text": passage}
            for number, record in enumerate(records)
            for passage in [*record["positives"], text(9)]
        ]
        pq.write_table(pa.Table.from_pylist(passages), home / "corpus.parquet")
        sources.append(DevSource(name=name, kind=kind, instruction=f"find {name}", folder=home))
    return sources


def make_job(
    folder: Path,
    model: Path,
    rows: Path,
    *,
    processes: int = 1,
    settings: Mapping[str, Any] | None = None,
    dev_sources: Sequence[DevSource] = (),
    **train: Any,
) -> EmbedderJob:
    """A job in its own folder; ``train`` are TrainConfig fields on top of small defaults."""
    defaults: dict[str, Any] = {
        "batch_size": 8,
        "launch": {"processes": processes, "device": "cpu", "threads": 1},
        "optimizer": {"steps": 6, "save_every": 2, "warmup_steps": 2, "learning_rate": 1e-3},
    }
    merged = {
        name: {**defaults[name], **train[name]} if isinstance(defaults.get(name), dict) and name in train
        else train.get(name, defaults.get(name))
        for name in {*defaults, *train}
    }  # fmt: skip
    config = TrainConfig.model_validate(merged)
    folder.mkdir(parents=True, exist_ok=True)
    job = EmbedderJob(
        fingerprint="test",
        seed=1,
        model_dir=model,
        rows_path=rows,
        work_dir=folder / "work",
        out_dir=folder / "out",
        dtype="float32",
        dev_sources=tuple(dev_sources),
        train=config,
        settings=EmbedderSettings.model_validate({"prompt": config.prompt, **(settings or {})}),
    )
    write_job(job, folder / "job.json")
    return job


def run_job(job: EmbedderJob, folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Launch the job's ranks; returns the training log and the lines printed."""
    lines: list[str] = []
    launch("icl_embed.train.embedder", folder / "job.json", job.work_dir, job.train.launch, lines.append)
    return read_metrics(job.work_dir / METRICS_NAME), lines
