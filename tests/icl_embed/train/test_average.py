"""The mean of the last adapters, against a slow sum of every single weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from icl_embed.config import TrainConfig
from icl_embed.errors import TrainingError
from icl_embed.model.lora import ADAPTER_WEIGHTS
from icl_embed.train.embedder.published import read_published
from icl_embed.train.embedder.snapshots import averaged_steps, snapshot_folder, write_mean
from tests.training_jobs import make_job, run_job, write_rows

STEPS = {"steps": 5, "save_every": 2, "warmup_steps": 1, "schedule": "constant", "learning_rate": 1e-3}


def slow_mean(adapters: list[dict[str, torch.Tensor]], name: str) -> list[float]:
    """Weight by weight, in Python's doubles."""
    columns = zip(*(adapter[name].flatten().tolist() for adapter in adapters), strict=True)
    return [sum(column) / len(column) for column in columns]


@pytest.mark.parametrize("zero_stage", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_published_adapter_is_the_mean_of_the_last_ones(
    tiny_model: Path, tmp_path: Path, zero_stage: int
) -> None:
    rows = write_rows(tmp_path / "rows.parquet")
    jobs = {
        name: make_job(
            tmp_path / name, tiny_model, rows, snapshot_every=1, optimizer={**STEPS, "zero_stage": zero_stage},
            settings={"template": {"special_tokens": True}}, **more,
        )
        for name, more in (("plain", {}), ("averaged", {"average_last": 3}))
    }  # fmt: skip
    losses = [[line["loss"] for line in run_job(job, tmp_path / name)[0]] for name, job in jobs.items()]
    assert losses[0] == losses[1]
    plain, averaged = jobs.values()
    parts = [load_file(snapshot_folder(averaged.out_dir, step) / ADAPTER_WEIGHTS) for step in (3, 4)]
    parts.append(load_file(plain.out_dir / "adapter" / ADAPTER_WEIGHTS))
    found = load_file(averaged.out_dir / "adapter" / ADAPTER_WEIGHTS)
    assert found.keys() == parts[0].keys()
    for name, weight in found.items():
        assert weight.flatten().tolist() == pytest.approx(slow_mean(parts, name), rel=1e-6, abs=1e-9)
    assert any(not torch.equal(weight, parts[-1][name]) for name, weight in found.items())
    merged, last = (load_file(job.out_dir / "model.safetensors") for job in (averaged, plain))
    assert any(not torch.equal(weight, last[name]) for name, weight in merged.items())
    told = {"published_step": 5, "stopped_early": False, "averaged_steps": [3, 4, 5]}
    assert read_published(averaged.out_dir) == told and read_published(plain.out_dir) == {}


def test_the_sum_is_made_in_fp32(tmp_path: Path) -> None:
    """1 + 1/256 + 0 in bf16 would forget the small one."""
    values = (1.0, 2.0**-8, 2.0**-8)
    for number, value in enumerate(values):
        (tmp_path / str(number)).mkdir()
        save_file(
            {"w": torch.full((2,), value, dtype=torch.bfloat16)}, tmp_path / str(number) / ADAPTER_WEIGHTS
        )
    write_mean([tmp_path / str(number) for number in range(3)], tmp_path / "mean")
    found = load_file(tmp_path / "mean" / ADAPTER_WEIGHTS)["w"]
    assert found.dtype == torch.bfloat16
    assert found.tolist() == [torch.tensor(sum(values) / 3).bfloat16().item()] * 2
    lost = torch.tensor(1.0).bfloat16() + torch.tensor(2.0**-8).bfloat16() + torch.tensor(2.0**-8).bfloat16()
    assert found[0].item() != (lost / 3).item(), "the example shows nothing"


def test_which_steps_are_averaged_follows_from_where_training_ended() -> None:
    train = TrainConfig(snapshot_every=2, optimizer={"steps": 8}, average_last=3)
    assert averaged_steps(train, 8) == [4, 6, 8]
    assert averaged_steps(train, 4) == [2, 4]  # ended early, with a snapshot of its last step
    assert averaged_steps(train, 5) == [2, 4, 5]
    assert averaged_steps(TrainConfig(snapshot_every=2), 8) == []


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"snapshot_every": 0}, "snapshot_every = 0 gives 1 in 8 steps"),
        ({"average_last": 1}, "average_last = 1 needs at least 2"),
        ({"average_last": 5}, "gives 4 in 8 steps"),
        ({"tuning": "full"}, "use it with tuning = 'lora'"),
        ({"dev": {"every": 2, "keep": "best"}}, "dev.keep = 'last', found 'lora' and 'best'"),
    ],
)
def test_an_average_of_what_there_is_not_is_refused(more: dict, told: str) -> None:
    TrainConfig(snapshot_every=2, optimizer={"steps": 8}, average_last=3)
    with pytest.raises(ValueError, match=told):
        TrainConfig(**{"snapshot_every": 2, "optimizer": {"steps": 8}, "average_last": 3, **more})


def test_adapters_of_other_layers_and_missing_ones_are_refused(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        save_file({name: torch.ones(1)}, tmp_path / name / ADAPTER_WEIGHTS)
    with pytest.raises(TrainingError, match="they adapt different layers"):
        write_mean([tmp_path / "one", tmp_path / "other"], tmp_path / "mean")
    with pytest.raises(TrainingError, match="cannot average"):
        write_mean([tmp_path / "one", tmp_path / "none"], tmp_path / "mean")
