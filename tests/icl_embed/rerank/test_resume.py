from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from icl_embed.config import LaunchConfig, OptimizerConfig
from icl_embed.launch.launcher import WorkerLostError, launch
from icl_embed.rerank.job import RerankerJob
from icl_embed.train.job import write_job
from tests.icl_embed.rerank.test_distill import CONFIG, toy_set, write_rows

pytestmark = pytest.mark.fault


def losses_and_weights(job: RerankerJob) -> tuple[list[float], list[bytes]]:
    lines = (job.work_dir / "metrics.jsonl").read_text().splitlines()
    names = ("model.safetensors", "heads.safetensors")
    return [json.loads(line)["loss"] for line in lines], [(job.out_dir / name).read_bytes() for name in names]


def test_a_killed_rank_costs_nothing_and_ranks_change_nothing(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = [
        {"dataset": "toy", "kind": "retrieval", "query": row.query, "positive": row.positive,
         "negatives": list(row.negatives)}
        for row in toy_set().rows
    ]  # fmt: skip
    rows_path = write_rows(tmp_path / "train.parquet", rows)
    steps = OptimizerConfig(steps=8, save_every=3, warmup_steps=0, learning_rate=1e-2)

    def run(name: str, processes: int, *, killed_at: int = 0) -> tuple[list[float], list[bytes]]:
        config = CONFIG.model_copy(
            update={
                "optimizer": steps,
                "launch": LaunchConfig(device="cpu", threads=1, processes=processes),
            }
        )
        job = RerankerJob(
            fingerprint="f", seed=1, model_dir=folders("llama"), work_dir=tmp_path / name / "work",
            dtype="float32", rows_path=rows_path, out_dir=tmp_path / name / "out", rerank=config,
        )  # fmt: skip
        job.work_dir.mkdir(parents=True)
        path = write_job(job, job.work_dir / "job.json")

        def kill(line: str) -> None:
            if f"step {killed_at}/" in line:
                os.kill(int((job.work_dir / "ranks/1").read_text().split()[0]), signal.SIGKILL)

        if killed_at:
            with pytest.raises(WorkerLostError):
                launch("icl_embed.rerank", path, job.work_dir, config.launch, kill)
        launch("icl_embed.rerank", path, job.work_dir, config.launch, lambda _: None)
        return losses_and_weights(job)

    one, two, killed = run("one", 1), run("two", 2), run("killed", 2, killed_at=5)
    assert two[0] == pytest.approx(one[0], rel=1e-4)
    assert killed == two
