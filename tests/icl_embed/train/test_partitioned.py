"""ZeRO 3: the model is spread over the ranks from its first byte on, and published whole."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from icl_embed.config import LaunchConfig
from icl_embed.train.distributed import enter
from icl_embed.train.embedder.model import load_for_training
from tests.training_jobs import make_job, run_job, write_rows

SETTINGS = {
    "plain": {},
    "tokens": {"template": {"special_tokens": True}},
    "demonstrations": {"template": {"demonstrations": True}},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "train.parquet")


def test_no_rank_ever_holds_the_whole_model(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    for stage, is_spread in ((2, False), (3, True)):
        job = make_job(tmp_path / str(stage), tiny_model, rows, optimizer={"zero_stage": stage})
        with enter(LaunchConfig(device="cpu", threads=1), dtype="float32") as place:
            trained = load_for_training(job, place)
        assert trained.is_partitioned == is_spread
        frozen = [weight for weight in trained.embedder.model.parameters() if not weight.requires_grad]
        assert frozen
        assert all((weight.numel() == 0) == is_spread for weight in frozen)


@pytest.mark.parametrize(
    ("tuning", "name"),
    [
        ("lora", "plain"),
        pytest.param("lora", "tokens", marks=pytest.mark.slow),
        pytest.param("lora", "demonstrations", marks=pytest.mark.slow),
        pytest.param("full", "plain", marks=pytest.mark.slow),
        pytest.param("full", "tokens", marks=pytest.mark.slow),
    ],
)
def test_two_ranks_with_pieces_train_what_two_with_copies_do(
    tiny_model: Path, rows: Path, tmp_path: Path, tuning: str, name: str
) -> None:
    logs, weights = [], []
    for stage in (1, 3):
        folder = tmp_path / str(stage)
        options: dict[str, Any] = {"tuning": tuning, "optimizer": {"zero_stage": stage, "steps": 3}}
        job = make_job(folder, tiny_model, rows, processes=2, settings=SETTINGS[name], **options)
        logs.append(run_job(job, folder)[0])
        weights.append(load_file(job.out_dir / "model.safetensors"))
    for one, other in zip(*logs, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    assert weights[0].keys() == weights[1].keys()
    for weight, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][weight], tensor, rtol=1e-3, atol=1e-4)
