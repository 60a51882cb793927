"""Weights of earlier steps are exactly those that a shorter training would have published."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from icl_embed.config import TrainConfig
from icl_embed.errors import TrainingError
from icl_embed.train.embedder.snapshots import build_checkpoint, snapshot_folder, snapshot_steps
from tests.training_jobs import make_job, run_job, write_rows

CONSTANT = {"schedule": "constant", "warmup_steps": 1, "save_every": 2}


@pytest.mark.parametrize("tuning", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_a_checkpoint_equals_the_model_of_a_training_that_stopped_there(
    tmp_path: Path, tiny_model: Path, tuning: str
) -> None:
    rows = write_rows(tmp_path / "rows.parquet")
    settings = {"template": {"special_tokens": True}}
    long = make_job(
        tmp_path / "long", tiny_model, rows, settings=settings, tuning=tuning,
        optimizer={**CONSTANT, "steps": 5}, snapshot_every=2,
    )  # fmt: skip
    short = make_job(
        tmp_path / "short", tiny_model, rows, settings=settings, tuning=tuning,
        optimizer={**CONSTANT, "steps": 2},
    )  # fmt: skip
    run_job(long, tmp_path / "long")
    run_job(short, tmp_path / "short")
    assert sorted(path.name for path in (long.out_dir / "snapshots").iterdir()) == [
        "step-000002",
        "step-000004",
    ]
    found = tmp_path / "found"
    build_checkpoint(
        tiny_model,
        snapshot_folder(long.out_dir, 2),
        found,
        train=long.train,
        settings=long.settings,
        dtype=long.dtype,
    )
    wanted, restored = (load_file(folder / "model.safetensors") for folder in (short.out_dir, found))
    assert wanted.keys() == restored.keys()
    assert all(torch.equal(weight, restored[name]) for name, weight in wanted.items())
    last = load_file(long.out_dir / "model.safetensors")
    assert any(not torch.equal(weight, restored[name]) for name, weight in last.items())


def test_the_last_step_is_no_snapshot_and_none_are_kept_unless_asked() -> None:
    assert snapshot_steps(TrainConfig(snapshot_every=2), 6) == [2, 4]
    assert snapshot_steps(TrainConfig(), 6) == []


def test_a_step_that_was_not_kept_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    job = make_job(tmp_path / "job", tiny_model, tmp_path / "rows.parquet")
    with pytest.raises(TrainingError, match=r"no step-000003 .* train.snapshot_every"):
        build_checkpoint(
            tiny_model,
            snapshot_folder(tmp_path, 3),
            tmp_path / "out",
            train=job.train,
            settings=job.settings,
            dtype="float32",
        )
