"""Training against a full disk and a rank that stops: what is said, and what the next run makes of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from icl_embed.errors import StoreError
from icl_embed.launch.launcher import StalledJobError, launch
from icl_embed.store.files import sha256_of
from tests.training_jobs import make_job, run_job, write_rows

pytestmark = [pytest.mark.fault, pytest.mark.timeout(900)]


def test_a_full_disk_is_named_and_the_run_resumes_when_there_is_space(
    small_disk: Path, tiny_model: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "train.parquet")
    whole = make_job(tmp_path / "whole", tiny_model, rows, processes=2)
    run_job(whole, tmp_path / "whole")

    job = make_job(small_disk, tiny_model, rows, processes=2)
    seen: list[str] = []
    filler = small_disk / "filler"

    def fill(line: str) -> None:
        seen.append(line)
        if line.startswith("step 3/"):  # the checkpoint of step 2 is whole, that of step 4 finds no room
            free = os.statvfs(small_disk)
            filler.write_bytes(bytes(free.f_bavail * free.f_bsize - (64 << 10)))

    with pytest.raises(StoreError, match="No space left on device") as caught:
        launch("icl_embed.train.embedder", small_disk / "job.json", job.work_dir, job.train.launch, fill)
    assert str(job.work_dir) in str(caught.value)
    assert not any(line.startswith("step 5/") for line in seen), "the disk filled up too late"
    with pytest.raises(StoreError, match="No space left on device"):  # in vain, and the same answer
        run_job(job, small_disk)

    filler.unlink()
    metrics, lines = run_job(job, small_disk)
    assert "resumed after step 2 of 6" in lines
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    name = "model.safetensors"
    assert sha256_of(job.out_dir / name) == sha256_of(whole.out_dir / name)


def test_a_stopped_rank_ends_the_job_which_resumes(tiny_model: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "train.parquet")
    job = make_job(
        tmp_path, tiny_model, rows, processes=2, launch={"stall_seconds": 60}, optimizer={"save_every": 2}
    )

    def stop(line: str) -> None:
        if line.startswith("step 3/"):
            os.kill(int((job.work_dir / "ranks" / "1").read_text().split()[0]), signal.SIGSTOP)

    with pytest.raises(StalledJobError, match=r"rank 0: File .*rank 1: stopped by a signal"):
        launch("icl_embed.train.embedder", tmp_path / "job.json", job.work_dir, job.train.launch, stop)
    _, lines = run_job(job, tmp_path)
    assert "resumed after step 2 of 6" in lines
