"""Whole training jobs: real processes, real DeepSpeed, a tiny model."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from icl_embed.config import LaunchConfig
from icl_embed.errors import TrainingError
from icl_embed.launch.launcher import WorkerLostError, launch
from icl_embed.model.embedder import Embedder
from icl_embed.store.files import sha256_of
from icl_embed.train.rows import read_training_sets
from tests.training_jobs import make_job, run_job, write_rows

TOLERANCE = 2e-5  # fp32 sums in another order
OPTIONS = {
    "examples": {"sharing": "per_group", "group_size": 4},
    "gradient_cache": True,
    "activation_checkpointing": True,
    "batch_tokens": 400,  # several micro-batches
    "settings": {"template": {"special_tokens": True}},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "train.parquet")


@pytest.fixture(scope="module")
def killed_build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What a process leaves that is killed while DeepSpeed compiles: a lock that nobody will take away."""
    folder = tmp_path_factory.mktemp("extensions")
    lock = folder / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir()
    lock.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(folder))
        yield lock


@pytest.fixture(scope="module")
def one_rank(killed_build: Path, tiny_model: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("one")
    job = make_job(folder, tiny_model, rows, **OPTIONS)
    metrics, _ = run_job(job, folder)
    return job, metrics


def test_training_compiles_nothing_and_waits_for_nobodys_lock(one_rank, killed_build: Path) -> None:
    """All trainings of this module meet the lock of a killed build."""
    assert [path for path in killed_build.parent.parent.rglob("*") if path.is_file()] == [killed_build]


def test_two_ranks_and_one_give_the_same_loss_curve(
    one_rank, tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    _, alone = one_rank
    job = make_job(tmp_path, tiny_model, rows, processes=2, optimizer={"zero_stage": 2}, **OPTIONS)
    together, _ = run_job(job, tmp_path)
    for one, two in zip(alone, together, strict=True):
        assert abs(one["loss"] - two["loss"]) < TOLERANCE * one["loss"]
        assert abs(one["grad_norm"] - two["grad_norm"]) < 1e-3 * one["grad_norm"]
        assert one["examples_per_query"] == two["examples_per_query"]


def test_the_published_model_is_whole_and_different_from_the_base(one_rank, tiny_model: Path) -> None:
    job, metrics = one_rank
    trained = Embedder.load(job.out_dir, device="cpu", dtype="float32")
    base = Embedder.load(tiny_model, device="cpu", dtype="float32")
    assert trained.settings == job.settings
    texts = ["sun moon", "star"]
    assert np.abs(trained.encode_passages(texts) - base.encode_passages(texts)).max() > 1e-4
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    assert sum(line["examples_per_query"] for line in metrics) > 0


def test_an_interrupted_run_resumes_to_the_same_weights(
    one_rank, tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    """A rank that dies between two checkpoints: the job is run again and ends bit-identical.

    Batch workers prepare its steps; those of the reference were prepared in line.
    """
    reference, metrics = one_rank
    job = make_job(tmp_path, tiny_model, rows, tokenizer_workers=1, **OPTIONS)
    _kill_after_step(tmp_path, job, step=5)
    resumed, lines = run_job(job, tmp_path)
    assert "resumed after step 4 of 6" in lines
    assert [line["loss"] for line in resumed] == [line["loss"] for line in metrics]
    name = "model.safetensors"
    assert sha256_of(job.out_dir / name) == sha256_of(reference.out_dir / name)


@pytest.mark.parametrize("stage", [*(pytest.param(stage, marks=pytest.mark.slow) for stage in (0, 1, 3)), 2])
def test_a_run_goes_on_with_fewer_ranks_and_says_so(
    one_rank, tiny_model: Path, rows: Path, tmp_path: Path, stage: int
) -> None:
    """Two ranks of which one is lost for good: one goes on after the last checkpoint."""
    _, metrics = one_rank
    job = make_job(tmp_path, tiny_model, rows, processes=2, optimizer={"zero_stage": stage}, **OPTIONS)
    _kill_after_step(tmp_path, job, step=5)
    alone = job.model_copy(update={"train": job.train.model_copy(update={"launch": one_process(job)})})
    (tmp_path / "job.json").write_text(alone.model_dump_json())
    resumed, lines = run_job(alone, tmp_path)
    assert "resumed after step 4 of 6" in lines
    assert any("written by 2 ranks, and 1 go on" in line for line in lines)
    assert not list(job.work_dir.rglob("*.joined"))
    for one, two in zip(metrics, resumed, strict=True):
        assert abs(one["loss"] - two["loss"]) < TOLERANCE * one["loss"]
        assert abs(one["grad_norm"] - two["grad_norm"]) < 1e-3 * one["grad_norm"]


def one_process(job) -> LaunchConfig:
    return job.train.launch.model_copy(update={"processes": 1})


def _kill_after_step(folder: Path, job, *, step: int) -> None:
    killed = []

    def kill(line: str) -> None:
        if line.startswith(f"step {step}/") and not killed:
            pid = int((job.work_dir / "ranks" / "0").read_text().split()[0])
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    with pytest.raises(WorkerLostError, match="resume"):
        launch("tests.slow_training", folder / "job.json", job.work_dir, job.train.launch, kill)
    assert killed, "the fault was never injected"


def test_resuming_with_another_learning_rate_is_refused_and_names_it(
    one_rank, tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    reference, _ = one_rank
    changed = make_job(tmp_path, tiny_model, rows, **OPTIONS)
    shutil.copytree(reference.work_dir / "checkpoints", changed.work_dir / "checkpoints")
    (tmp_path / "job.json").write_text(changed.model_copy(update={"fingerprint": "other"}).model_dump_json())
    with pytest.raises(TrainingError, match="different run"):
        run_job(changed, tmp_path)


@pytest.mark.parametrize("damage", ["flip", pytest.param("cut", marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_ignored_and_the_one_before_it_used(
    one_rank, tiny_model: Path, rows: Path, tmp_path: Path, damage: str
) -> None:
    reference, _ = one_rank
    job = make_job(tmp_path, tiny_model, rows, **OPTIONS)
    shutil.copytree(reference.work_dir, job.work_dir)
    state = next((job.work_dir / "checkpoints" / "step-000006").rglob("*model_states.pt"))
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    _, lines = run_job(job, tmp_path)
    assert any("step-000006 is ignored" in line for line in lines)
    assert "resumed after step 4 of 6" in lines
    assert sha256_of(job.out_dir / "model.safetensors") == sha256_of(reference.out_dir / "model.safetensors")


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no training rows"):
        read_training_sets(write_rows(tmp_path / "none.parquet", rows_per_set=0), tmp_path)


def test_a_data_set_smaller_than_a_batch_stops_the_job_by_name(tiny_model: Path, tmp_path: Path) -> None:
    few = write_rows(tmp_path / "few.parquet", rows_per_set=5)
    with pytest.raises(TrainingError, match="data set colours has 5 training rows, fewer than a batch of 8"):
        run_job(make_job(tmp_path, tiny_model, few), tmp_path)


def test_a_loss_that_is_not_finite_stops_before_the_update(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path, tiny_model, rows, optimizer={"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(TrainingError, match=r"(loss of step|gradient norm of step|not finite)"):
        run_job(job, tmp_path)


def test_an_epoch_is_as_many_steps_as_the_rows_fill_batches(tiny_model: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.parquet", rows_per_set=12)
    optimizer = {"steps": 0, "epochs": 2.0}
    job = make_job(tmp_path, tiny_model, rows, optimizer=optimizer, kinds={"sts": {"batch_size": 4}})
    log, lines = run_job(job, tmp_path)
    assert [line["step"] for line in log] == list(range(1, 11))  # twice 12 // 8 + 12 // 8 + 12 // 4
    assert log[-1]["learning_rate"] == pytest.approx(1e-3 / 8)  # the schedule ends with the last step
    assert (job.out_dir / "model.safetensors").exists() and any("step 10/10" in line for line in lines)
