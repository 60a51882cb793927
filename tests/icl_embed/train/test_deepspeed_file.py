"""DeepSpeed settings of a user's own: merged over ours, held against our options, obeyed by the engine."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from icl_embed.config import OptimizerConfig, TrainConfig, identity
from icl_embed.config.load import load_config
from icl_embed.errors import ConfigError, TrainingError
from icl_embed.train.engine import engine_settings
from icl_embed.train.job import write_job
from tests.training_jobs import make_job, run_job, write_rows

OFFLOAD: dict[str, Any] = {
    "zero_optimization": {"offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 100_000},
}
# As people have it who wrote it for the transformers trainer.
COMMON = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": False},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto"}},
    "scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": "auto", "warmup_num_steps": "auto"}},
    "zero_optimization": {"stage": 1, "overlap_comm": False, "reduce_bucket_size": 100_000},
}


def test_a_file_is_merged_over_our_settings_and_auto_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(COMMON))
    config = load_config(None, [f"train.optimizer.deepspeed={path}"]).train.optimizer
    found = engine_settings(config, torch.float32)
    ours = engine_settings(OptimizerConfig(), torch.float32)
    expected = {"stage": 1, "overlap_comm": False, "reduce_bucket_size": 100_000}
    assert found == {**ours, "zero_optimization": expected}


def test_a_table_in_toml_does_what_the_file_does() -> None:
    config = load_config(None, ["train.optimizer.deepspeed.zero_optimization.overlap_comm=false"])
    settings = engine_settings(config.train.optimizer, torch.float32)
    assert settings["zero_optimization"] == {"stage": 1, "overlap_comm": False}


def test_keys_know_what_the_file_says_and_not_that_there_is_none(tmp_path: Path) -> None:
    assert "deepspeed" not in identity(TrainConfig())["optimizer"]
    keys = []
    for name in ("one", "other"):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(OFFLOAD))
        keys.append(identity(OptimizerConfig.model_validate({"deepspeed": path})))
    assert keys[0] == keys[1] != identity(OptimizerConfig())


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage = 3, but optimizer.zero_stage is 1"),
        ({"gradient_clipping": 0.5}, "gradient_clipping = 0.5, but optimizer.max_grad_norm is 1.0"),
        ({"train_batch_size": 64}, "train_batch_size = 64, but batch_size decides that"),
        ({"optimizer": {"type": "Lion", "params": {"lr": 1e-3}}}, "optimizer.learning_rate"),
        ({"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 9}}}, "optimizer.schedule"),
        ({"fp16": {"enabled": True}}, "fp16.enabled = True, but model.dtype"),
        ({"zero_optimisation": {"stage": 1}}, "no DeepSpeed setting.*did you mean zero_optimization"),
        ({"wibble": 1}, "'wibble' is no DeepSpeed setting"),
        ([1], "expected the path of a JSON file or a table, found list"),
    ],
)
def test_what_our_options_decide_and_what_nobody_knows_is_named(
    tmp_path: Path, said: Any, message: str
) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(said))
    with pytest.raises(ConfigError, match=message):
        load_config(None, [f"rerank.optimizer.deepspeed={path}"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the DeepSpeed settings"),
        (b'{"bf16": ', "is no JSON"),
        (b"\xff\xfe{}", "is no JSON"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "ds.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(None, [f"train.optimizer.deepspeed={path}"])


def test_precision_is_the_models_own() -> None:
    config = OptimizerConfig(deepspeed={"bf16": {"enabled": True}})
    assert engine_settings(config, torch.bfloat16)["bf16"] == {"enabled": True}
    with pytest.raises(TrainingError, match=r"bf16.enabled = True, but the model is in torch.float32"):
        engine_settings(config, torch.float32)


def test_sums_of_gradients_are_in_fp32_where_deepspeed_can(tmp_path: Path) -> None:
    for stage in (2, 3):
        settings = engine_settings(OptimizerConfig(zero_stage=stage), torch.bfloat16)
        assert settings["data_types"] == {"grad_accum_dtype": "fp32"}
    assert "data_types" not in engine_settings(OptimizerConfig(), torch.bfloat16)
    asked = OptimizerConfig(deepspeed={"data_types": {"grad_accum_dtype": "fp32"}})
    with pytest.raises(TrainingError, match="set optimizer.zero_stage = 2"):
        engine_settings(asked, torch.bfloat16)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "train.parquet")


@pytest.mark.slow
def test_offload_by_a_file_trains_as_without(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    params = {"zero_optimization": {**OFFLOAD["zero_optimization"], "offload_param": {"device": "cpu"}}}
    runs = {
        "plain": {},
        "offload": {"deepspeed": OFFLOAD},
        "parameters": {"zero_stage": 3, "deepspeed": params},
    }
    logs = {}
    for name, optimizer in runs.items():
        job = make_job(tmp_path / name, tiny_model, rows, optimizer={"steps": 3, **optimizer})
        logs[name], _ = run_job(job, tmp_path / name)
    for name in ("offload", "parameters"):
        for one, other in zip(logs["plain"], logs[name], strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
            assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


@pytest.mark.slow
def test_gradients_in_bf16_are_those_of_every_stage(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    """In many parts, where a wrong sum would show."""
    norms = []
    for stage in (1, 2):
        folder = tmp_path / str(stage)
        options: dict[str, Any] = {"gradient_cache": True, "batch_tokens": 200}
        job = make_job(folder, tiny_model, rows, optimizer={"steps": 1, "zero_stage": stage}, **options)
        write_job(job.model_copy(update={"dtype": "bfloat16"}), folder / "job.json")
        metrics, _ = run_job(job, folder)
        norms.append(metrics[0]["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_a_setting_that_deepspeed_itself_refuses_is_named(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    wrong = {"deepspeed": {"zero_optimization": {"reduce_bucket_sise": 5}}}
    job = make_job(tmp_path, tiny_model, rows, optimizer=wrong)
    with pytest.raises(TrainingError, match="reduce_bucket_sise"):
        run_job(job, tmp_path)
