"""Real ranks in real processes: how many there are, and whether one is killed, changes no weight."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from icl_embed.config import LaunchConfig, LoraConfig, OptimizerConfig, RerankConfig
from icl_embed.launch.launcher import WorkerLostError, launch
from icl_embed.rerank.reranker import Reranker
from icl_embed.train.job import write_job
from icl_embed.train.reranker.batches import RerankerJob
from tests.icl_embed.train.reranker.test_distill import CONFIG, toy_set, write_toy_rows
from tests.icl_embed.train.test_taught import write_scores

pytestmark = [pytest.mark.fault, pytest.mark.timeout(900)]

RECIPE = CONFIG.model_copy(
    update={
        "compress_layers": (1, 3),
        "compress_subsets": True,
        "compress_pooling": "attention",
        "num_easy_negatives": 2,
        "head_rate": 3.0,
        "optimizer": OptimizerConfig(steps=8, save_every=3, warmup_steps=0, learning_rate=1e-2),
    }
)


def make_job(folder: Path, model_dir: Path, config: RerankConfig, *, processes: int) -> RerankerJob:
    """A job with a teacher, in a folder of its own."""
    folder.mkdir()
    rows_path = write_toy_rows(folder / "train.parquet")
    teacher = write_scores(folder / "teacher", rows_path, kinds=("retrieval",))
    placed = config.model_copy(update={"launch": LaunchConfig(device="cpu", threads=1, processes=processes)})
    job = RerankerJob(
        fingerprint="f", seed=1, model_dir=model_dir, work_dir=folder / "work", dtype="float32",
        rows_path=rows_path, teacher_dir=teacher, out_dir=folder / "out", rerank=placed,
    )  # fmt: skip
    job.work_dir.mkdir()
    write_job(job, job.work_dir / "job.json")
    return job


def run(job: RerankerJob, on_line: Callable[[str], None] = lambda _: None) -> list[float]:
    """Launch the ranks; returns the loss of every step."""
    launch("icl_embed.train.reranker", job.work_dir / "job.json", job.work_dir, job.rerank.launch, on_line)
    lines = (job.work_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def weights(job: RerankerJob) -> list[bytes]:
    return [(job.out_dir / name).read_bytes() for name in ("model.safetensors", "heads.safetensors")]


def test_the_number_of_ranks_changes_nothing_but_rounding(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    one, two = (
        run(make_job(tmp_path / str(ranks), folders("llama"), RECIPE, processes=ranks)) for ranks in (1, 2)
    )
    assert two == pytest.approx(one, rel=1e-4)


def test_a_killed_rank_costs_nothing_and_the_same_seed_gives_the_same_bits(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    config = RECIPE.model_copy(update={"lora": LoraConfig(rank=8, alpha=16, dropout=0.1)})
    whole, killed = (
        make_job(tmp_path / name, folders("llama"), config, processes=2) for name in ("whole", "killed")
    )

    def kill(line: str) -> None:
        if "step 5/" in line:
            os.kill(int((killed.work_dir / "ranks/1").read_text().split()[0]), signal.SIGKILL)

    with pytest.raises(WorkerLostError):
        run(killed, kill)
    assert run(killed) == run(whole)
    assert weights(killed) == weights(whole)
    pairs = [(row.query, text) for row in toy_set().rows for text in (row.positive, *row.negatives)]
    scores = [
        Reranker.load(job.out_dir, device="cpu", dtype="float32").score(pairs, compress_ratio=2)
        for job in (whole, killed)
    ]
    assert scores[0].tobytes() == scores[1].tobytes()
