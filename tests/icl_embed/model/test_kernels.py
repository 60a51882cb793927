"""The faster products give what torch's default ones give, and leave training alone."""

import os
import subprocess
import sys
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch

from icl_embed.model.backbone import load_backbone
from icl_embed.model.cpu import kernels

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN"
)


def layer(folder: Path, *, fast: bool, monkeypatch: pytest.MonkeyPatch) -> Any:
    model, _ = load_backbone(folder, device=torch.device("cpu"), dtype=torch.float32)
    if fast:
        monkeypatch.setattr(kernels, "onednn_is_faster", lambda _dtype: True)
        kernels.speed_up(model)
    return model.layers[0].mlp


@needs_onednn
def test_the_gated_layer_gives_the_same_numbers_and_gradients(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = layer(tiny_model, fast=False, monkeypatch=monkeypatch)
    fast = layer(tiny_model, fast=True, monkeypatch=monkeypatch)
    rows = torch.randn(7, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.allclose(fast(rows), usual(rows), atol=1e-6)
        assert torch.allclose(fast.up_proj(rows), usual.up_proj(rows), atol=1e-6)
    gradients = [torch.autograd.grad(one(rows).sum(), one.up_proj.weight)[0] for one in (usual, fast)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("instructions", "takes_onednn"), [("AVX2", False), ("DEFAULT", False), ("AVX512", True)]
)
def test_the_kind_of_processor_decides_and_no_stopwatch(
    instructions: str, takes_onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    monkeypatch.setattr(kernels, "onednn_is_right", lambda _dtype: True)
    assert kernels.onednn_is_faster.__wrapped__(torch.float32) is takes_onednn


@pytest.mark.parametrize("is_fast", [pytest.param(True, marks=needs_onednn), False])
def test_a_frozen_weight_passes_the_same_gradient_on_and_a_trained_one_gets_its_own(
    is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "onednn_is_faster", lambda _dtype: is_fast)
    generator = torch.Generator().manual_seed(4)
    usual = torch.nn.Linear(6, 4)
    fast = kernels.FastLinear(6, 4)
    fast.load_state_dict(usual.state_dict())
    weights = torch.randn(3, 5, 4, generator=generator)
    for trained in (False, True):
        gradients = []
        for layer in (usual, fast):
            layer.requires_grad_(trained)
            rows = torch.linspace(-1, 1, 90).view(3, 5, 6).requires_grad_()
            (layer(rows) * weights).sum().backward()
            gradients.append(rows.grad)
        assert torch.allclose(*gradients, atol=1e-6)
    assert torch.allclose(usual.weight.grad, fast.weight.grad)


@needs_onednn
def test_a_gated_layer_that_got_adapters_later_uses_them(tiny_model: Path) -> None:
    from icl_embed.config import LoraConfig
    from icl_embed.model.lora import attach

    model, _ = load_backbone(tiny_model, device=torch.device("cpu"), dtype=torch.float32)
    kernels._use_fast_linears(model)
    for module in model.modules():
        if kernels._is_gated(module):
            module.forward = MethodType(kernels._gated_forward, module)
    tuned = attach(model, LoraConfig(rank=2), seed=0)
    mlp = tuned.base_model.model.layers[0].mlp
    rows = torch.randn(7, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = mlp(rows)
        for name, parameter in mlp.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.3)
        assert not torch.allclose(mlp(rows), before)


PRODUCTS_OF_TWO_LAYERS = """
import sys, torch
from icl_embed.model.cpu import kernels

if sys.argv[1] == "training":
    kernels.keep_products_of_training()
for layer in range(2):
    print("layer", flush=True)
    for rows in range(1, 101):
        kernels.onednn_linear(torch.zeros(rows, 64), torch.zeros(64, 64))
"""


@needs_onednn
@pytest.mark.parametrize(
    ("work", "said", "prepared_again"),
    [
        ("training", {}, 0),
        ("inference", {}, 100),
        ("training", dict.fromkeys(kernels.KEPT_PRODUCTS, "8"), 100),
    ],
)
def test_training_prepares_each_product_once_a_step(
    work: str, said: dict[str, str], prepared_again: int
) -> None:
    told = {name: value for name, value in os.environ.items() if name not in kernels.KEPT_PRODUCTS}
    run = subprocess.run(
        [sys.executable, "-c", PRODUCTS_OF_TWO_LAYERS, work],
        check=True,
        capture_output=True,
        text=True,
        env={**told, **said, "ONEDNN_VERBOSE": "profile_create"},
    )
    first, second = (part.count("create:cache_miss") for part in run.stdout.split("layer\n")[1:])
    assert (first, second) == (100, prepared_again)
