"""However a step is computed, its gradient is the same."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from icl_embed.train.job import write_job
from tests.icl_embed.train.gradients import gradients, make_objective
from tests.training_jobs import make_job, write_rows

ROOT = Path(__file__).resolve().parents[3]
PROMPT = {"query_tokens": 64, "passage_tokens": 64, "total_tokens": 512}
SMALL = {"batch_tokens": 150}  # several micro-batches
DROPOUT = {"lora": {"rank": 4, "alpha": 8, "dropout": 0.2}}
PER_BATCH = {"examples": {"sharing": "per_batch"}}
REWARDED = {
    "examples": {
        "counts": [0.2, 0, 0.8],
        "generic_instruction": 0.5,
        "arbitrary_names": 0.5,
        "symmetric_passages": 0.5,
    }
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "train.parquet")


@pytest.fixture
def measure(tiny_model: Path, rows: Path, tmp_path: Path):
    def measure(*, step: int = 0, share: bool = True, **train: Any):
        objective = make_objective(make_job(tmp_path, tiny_model, rows, prompt=PROMPT, **train))
        objective._shares = share
        return gradients(objective, step=step)

    return measure


def assert_same(one, two, *, tolerance: float = 1e-5) -> None:
    (loss, found), (other_loss, other) = one, two
    assert abs(loss - other_loss) < tolerance * abs(loss)
    size = torch.sqrt(sum(gradient.square().sum() for gradient in found.values()))
    assert size > 0
    assert found.keys() == other.keys()
    for name, gradient in found.items():
        assert (gradient - other[name]).norm() < tolerance * size, name


@pytest.mark.parametrize("step", range(4))  # all three data sets are met
def test_the_gradient_cache_gives_the_plain_gradient_with_dropout(measure, step: int) -> None:
    plain = measure(step=step, **SMALL, **DROPOUT)
    cached = measure(step=step, gradient_cache=True, **SMALL, **DROPOUT)
    assert_same(plain, cached)
    other_dropout = measure(step=step, batch_tokens=200, **DROPOUT)
    with pytest.raises(AssertionError):  # dropout was really there: other micro-batches draw other masks
        assert_same(plain, other_dropout)


def test_micro_batches_and_recomputed_activations_change_nothing(measure) -> None:
    whole = measure()
    assert_same(whole, measure(**SMALL))
    assert_same(whole, measure(activation_checkpointing=True))
    assert_same(whole, measure(activation_checkpointing=True, gradient_cache=True, **SMALL))


@pytest.mark.parametrize("sharing", ["per_group", "per_batch"])
def test_a_shared_prefix_gives_the_gradient_of_the_unshared_computation(measure, sharing: str) -> None:
    examples = {"sharing": sharing, "group_size": 4}
    shared = measure(examples=examples)
    assert_same(shared, measure(examples=examples, share=False))
    assert_same(shared, measure(examples=examples, **SMALL))


@pytest.fixture(scope="module")
def two_ranks(tiny_model: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients of several jobs on two ranks, all in one launch."""
    folder = tmp_path_factory.mktemp("two")
    jobs: dict[str, dict[str, Any]] = {
        "plain": {},
        "shared": PER_BATCH,
        "dropout": {**SMALL, **DROPOUT},
        "cached": {"gradient_cache": True, **SMALL, **DROPOUT},
        "stage0": {"gradient_cache": True, "optimizer": {"zero_stage": 0}, **SMALL},
        "stage2": {"gradient_cache": True, "optimizer": {"zero_stage": 2}, **SMALL},
        "stage3": {"gradient_cache": True, "optimizer": {"zero_stage": 3}, **SMALL},
        "wide3": {"optimizer": {"zero_stage": 3}, **SMALL},
        "alone": {"cross_device_negatives": False},
        "rewarded": REWARDED,
        "nearest": {"examples": {"mode": "nearest"}},
    }
    for name, train in jobs.items():
        write_job(
            make_job(folder / name, tiny_model, rows, processes=2, prompt=PROMPT, **train),
            folder / f"{name}.json",
        )
    subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "tests.icl_embed.train.gradients", str(folder),
        ],
        check=True, cwd=ROOT, timeout=100, capture_output=True,
    )  # fmt: skip
    return folder


def read(folder: Path, name: str):
    return json.loads((folder / f"{name}.report").read_text())["loss"], load_file(
        folder / f"{name}.safetensors"
    )


@pytest.mark.parametrize(
    ("name", "train"),
    [
        ("plain", {}),
        ("shared", PER_BATCH),
        ("rewarded", REWARDED),
        ("nearest", {"examples": {"mode": "nearest"}}),
    ],
)
def test_two_ranks_have_the_gradient_of_one(measure, two_ranks: Path, name: str, train) -> None:
    assert_same(measure(**train), read(two_ranks, name))


def test_the_gradient_cache_gives_the_plain_gradient_with_dropout_on_two_ranks(two_ranks: Path) -> None:
    assert_same(read(two_ranks, "dropout"), read(two_ranks, "cached"))


@pytest.mark.parametrize("name", ["plain", "cached", "dropout", "stage0", "stage2", "stage3", "wide3"])
def test_every_zero_stage_adds_up_all_parts_of_an_update(two_ranks: Path, name: str) -> None:
    report = json.loads((two_ranks / f"{name}.report").read_text())
    _, found = read(two_ranks, name)
    norm = torch.sqrt(sum(gradient.square().sum() for gradient in found.values())).item()
    assert abs(report["engine_norm"] - norm) < 1e-4 * norm
    assert abs(report["engine_loss"] - report["loss"]) < 1e-5 * report["loss"]


def test_without_cross_device_negatives_a_rank_meets_only_its_own_passages(measure, two_ranks: Path) -> None:
    loss, _ = read(two_ranks, "alone")
    assert loss < measure()[0] - 0.1  # half as many negatives
