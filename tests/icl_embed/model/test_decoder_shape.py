"""Sizes that follow from a config are those of the real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModel, AutoModelForCausalLM

from icl_embed.config import LoraConfig
from icl_embed.model.decoder_shape import DecoderShape
from icl_embed.model.lora import attach
from icl_embed.pipeline.known_sizes import PUBLISHED_MODELS
from tests.tiny_models import build_model


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma2", "opt", "gpt_neox"])
def test_weights_are_counted_from_the_config_alone(family: str, tmp_path: Path) -> None:
    folder = build_model(tmp_path / "model", family, layers=3, width=64)
    model = AutoModel.from_pretrained(folder)
    from_file = DecoderShape.of(json.loads((folder / "config.json").read_text()))
    # biases, second norms and learned positions are what is not counted; here they weigh more than in real models
    positions = 2048 * 64 if family == "opt" else 0
    found = sum(weight.numel() for weight in model.parameters()) - positions
    assert from_file.parameters == pytest.approx(found, rel=0.02)
    assert from_file == DecoderShape.of(model.config)


def test_published_models_have_their_published_sizes() -> None:
    mistral, bytes_of_mistral = PUBLISHED_MODELS["mistralai/Mistral-7B-v0.1"]
    assert mistral.stored_parameters * bytes_of_mistral == pytest.approx(
        14_483_498_040, rel=1e-4
    )  # its shards
    gemma, _ = PUBLISHED_MODELS["google/gemma-2-9b"]
    assert gemma.stored_parameters == pytest.approx(9_241_705_984, rel=1e-4)  # as its page counts
    assert gemma.per_token == 396_361_728  # 2 x 198.2 M


def test_adapters_are_counted_as_peft_makes_them(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(build_model(tmp_path / "model", layers=3, width=64))
    config = LoraConfig(rank=4)
    adapted = attach(model, config, seed=0)
    found = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert DecoderShape.of(model.config).adapter_parameters(4, config.targets) == found
