"""Steps prepared by worker processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icl_embed.errors import TrainingError
from icl_embed.launch.launcher import WorkerLostError
from icl_embed.launch.processes import start_time_of
from icl_embed.model.settings import EmbedderSettings
from icl_embed.prompts import PromptBuilder
from icl_embed.train.embedder.prefetch import prepare_ahead
from icl_embed.train.embedder.prepare import StepBuilder
from icl_embed.train.rows import read_training_sets
from tests.training_jobs import make_job, write_rows


def make_builder(model: Path, folder: Path) -> StepBuilder:
    from transformers import AutoTokenizer

    job = make_job(folder, model, write_rows(folder / "train.parquet"), optimizer={"steps": 12})
    prompts = PromptBuilder(AutoTokenizer.from_pretrained(model), EmbedderSettings().prompt)
    return StepBuilder(prompts, read_training_sets(job.rows_path, folder), job.train, seed=1)


class BrokenBuilder(StepBuilder):
    def build(self, step: int):
        if step == 1:
            raise TrainingError("step 1 cannot be prepared")
        return super().build(step)


def children() -> list[int]:
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in map(int, listed) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_workers_prepare_what_the_rank_itself_would_from_any_first_step(
    tiny_model: Path, tmp_path: Path
) -> None:
    builder = make_builder(tiny_model, tmp_path)
    with prepare_ahead(builder, 2) as prepare:
        for step in range(3, 12):
            assert prepare(step) == builder.build(step)
        workers = children()
        assert len(workers) == 2
    assert not any(start_time_of(pid) for pid in workers)


def test_a_killed_worker_is_reported_with_what_to_do(tiny_model: Path, tmp_path: Path) -> None:
    with prepare_ahead(make_builder(tiny_model, tmp_path), 1) as prepare:
        prepare(0)
        [worker] = children()
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(
            WorkerLostError, match=r"batch worker 0 died \(exit code -9\).*tokenizer_workers=0"
        ):
            for step in range(1, 12):  # some were already on their way
                prepare(step)


def test_an_error_in_a_worker_arrives_as_its_own_type(tiny_model: Path, tmp_path: Path) -> None:
    builder = make_builder(tiny_model, tmp_path)
    builder.__class__ = BrokenBuilder
    with prepare_ahead(builder, 1) as prepare:
        prepare(0)
        with pytest.raises(TrainingError, match="step 1 cannot be prepared"):
            prepare(1)


OWNER = """
import sys, time
from pathlib import Path
from icl_embed.train.embedder.prefetch import prepare_ahead
from tests.icl_embed.train.test_prefetch import children, make_builder
if __name__ == "__main__":
    with prepare_ahead(make_builder(Path(sys.argv[1]), Path(sys.argv[2])), 1) as prepare:
        prepare(0)
        print(*children(), flush=True)
        time.sleep(60)
"""


def test_no_worker_outlives_a_killed_rank(tiny_model: Path, tmp_path: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    owner = subprocess.Popen(
        [sys.executable, str(script), str(tiny_model), str(tmp_path)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    worker = int(owner.stdout.readline())
    assert start_time_of(worker)
    owner.kill()
    owner.wait()
    deadline = time.monotonic() + 10
    while start_time_of(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not start_time_of(worker)
