"""Going on from an adapter: the weights are taken over, and what does not fit is refused in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from icl_embed.config import LoraConfig, TrainConfig
from icl_embed.errors import ConfigError, ModelError, TrainingError
from icl_embed.model.backbone import load_backbone
from icl_embed.model.lora import ADAPTER_WEIGHTS, attach, save_adapter
from icl_embed.train.embedder.start import adapter_fingerprint, find_adapter, start_from
from tests.tiny_models import build_model
from tests.training_jobs import make_job, run_job, write_rows

STEPS = {"steps": 2, "save_every": 2, "warmup_steps": 0, "schedule": "constant", "learning_rate": 1e-3}
FROZEN = {**STEPS, "learning_rate": 1e-30}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "train.parquet")


@pytest.fixture(scope="module")
def trained(tiny_model: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with its adapter."""
    folder = tmp_path_factory.mktemp("trained")
    job = make_job(folder, tiny_model, rows, optimizer=STEPS, settings={"template": {"special_tokens": True}})
    run_job(job, folder)
    return job.out_dir


def adapted(model_dir: Path, config: LoraConfig | None = None) -> Any:
    model, _ = load_backbone(model_dir, device=torch.device("cpu"), dtype=torch.float32)
    return attach(model, config or LoraConfig(), seed=3)


@pytest.mark.slow
def test_training_goes_on_with_the_weights_of_the_adapter(
    trained: Path, tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    """At a rate of nothing what comes out is what went in, and the first loss is not that of a fresh adapter."""
    losses = {}
    for name, more in (("fresh", {}), ("on", {"start_from": trained})):
        job = make_job(
            tmp_path / name, tiny_model, rows, optimizer=FROZEN,
            settings={"template": {"special_tokens": True}}, **more,
        )  # fmt: skip
        log, _ = run_job(job, tmp_path / name)
        losses[name] = log[0]["loss"]
    assert losses["on"] != losses["fresh"]
    found, wanted = (load_file(one / "adapter" / ADAPTER_WEIGHTS) for one in (job.out_dir, trained))
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(weight, wanted[name], atol=1e-9) for name, weight in found.items())
    assert any(weight.abs().max() > 1e-5 for name, weight in found.items() if "lora_B" in name)


def test_an_adapter_is_found_alone_or_in_a_model_and_known_by_its_content(
    trained: Path, tmp_path: Path
) -> None:
    assert find_adapter(trained) == find_adapter(trained / "adapter") == trained / "adapter"
    shutil.copytree(trained / "adapter", tmp_path / "moved")
    assert adapter_fingerprint(tmp_path / "moved") == adapter_fingerprint(trained)
    weights = load_file(tmp_path / "moved" / ADAPTER_WEIGHTS)
    save_file({name: weight + 1 for name, weight in weights.items()}, tmp_path / "moved" / ADAPTER_WEIGHTS)
    assert adapter_fingerprint(tmp_path / "moved") != adapter_fingerprint(trained)


def test_a_folder_without_an_adapter_is_told_what_was_expected_and_found(
    tmp_path: Path, tiny_model: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r"expected adapter_model.safetensors and .* found nothing, it does"
    ):
        find_adapter(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"found config.json, .*Name the folder of a LoRA adapter"):
        find_adapter(tiny_model)


@pytest.fixture(scope="module")
def plain(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter without trained tokens."""
    folder = tmp_path_factory.mktemp("plain")
    save_adapter(adapted(tiny_model), folder)
    return folder


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (LoraConfig(rank=8), r"r of the adapter in .* is 32, this training has 8; set train.lora.rank to it"),
        (
            LoraConfig(alpha=8),
            r"lora_alpha of the adapter .* is 64, this training has 8; set train.lora.alpha",
        ),
        (LoraConfig(targets=("q_proj",)), r"target_modules of .* has \['q_proj'\]; set train.lora.targets"),
    ],
)
def test_another_rank_scale_or_other_layers_are_refused(
    plain: Path, tiny_model: Path, config: LoraConfig, told: str
) -> None:
    with pytest.raises(TrainingError, match=told):
        start_from(adapted(tiny_model, config), plain)


def test_an_adapter_of_another_base_is_refused(plain: Path, tmp_path: Path) -> None:
    wider = build_model(tmp_path / "wider", layers=4, width=64)
    with pytest.raises(ModelError, match=r"not of this base model: of .* expected 32 × 128, found 32 × 64"):
        start_from(adapted(wider), plain)
    deeper = build_model(tmp_path / "deeper", layers=5)
    with pytest.raises(ModelError, match=r"not of this base model: of .*layers.4.* found none"):
        start_from(adapted(deeper), plain)


def test_an_adapter_with_trained_tokens_needs_them_here(trained: Path, tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"the same tokens \(model.template.special_tokens\)"):
        start_from(adapted(tiny_model), trained)


def test_a_damaged_adapter_and_one_that_cannot_be_trained_on_are_refused(
    plain: Path, tiny_model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(plain, tmp_path / "rs")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True}))
    with pytest.raises(
        TrainingError, match=r"use_rslora .* is True.* such an adapter cannot be trained on here"
    ):
        start_from(adapted(tiny_model), folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="is damaged"):
        start_from(adapted(tiny_model), folder)
    shutil.copy(plain / "adapter_config.json", folder)
    (folder / ADAPTER_WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(ModelError, match="cannot be read"):
        start_from(adapted(tiny_model), folder)


def test_full_tuning_has_no_adapter_to_go_on_from() -> None:
    with pytest.raises(ValueError, match="goes on from an adapter: train it with tuning = 'lora'"):
        TrainConfig(start_from=Path("adapter"), tuning="full")
