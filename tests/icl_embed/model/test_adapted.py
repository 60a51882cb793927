"""A layer joined with its adapter computes what peft computes, forward and backward."""

from pathlib import Path
from typing import Any

import pytest
import torch

from icl_embed.config import LoraConfig
from icl_embed.model.backbone import load_backbone
from icl_embed.model.cpu import kernels
from icl_embed.model.cpu.adapted import join_adapters
from icl_embed.model.lora import attach

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN"
)


def adapted_mlp(folder: Path, *, join: bool, dropout: float = 0.0) -> Any:
    model, _ = load_backbone(folder, device=torch.device("cpu"), dtype=torch.float32)
    kernels._use_fast_linears(model)
    tuned = attach(model, LoraConfig(rank=3, alpha=5, dropout=dropout), seed=0)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator).div(8)
    if join:
        join_adapters(tuned)
    return tuned.base_model.model.layers[0].mlp


@pytest.mark.parametrize("shape", [(7, 32), (1, 5, 32)])
def test_outputs_and_all_gradients_are_those_of_separate_operations(
    tiny_model: Path, shape: tuple[int, ...]
) -> None:
    found = []
    for join in (False, True):
        mlp = adapted_mlp(tiny_model, join=join)
        rows = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = mlp(rows)
        trained = [parameter for parameter in mlp.parameters() if parameter.requires_grad]
        assert len(trained) == 6  # down and up of three layers
        gradients = torch.autograd.grad((out * out.detach().sin()).sum(), [rows, *trained])
        found.append((out.detach(), *gradients))
    for usual, joined in zip(*found, strict=True):
        assert usual.abs().max() > 1e-4
        assert torch.allclose(usual, joined, atol=1e-6, rtol=1e-5)


def test_without_gradients_and_with_dropout_peft_computes(tiny_model: Path) -> None:
    rows = torch.randn(7, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        usual, joined = (adapted_mlp(tiny_model, join=join)(rows) for join in (False, True))
    assert torch.equal(usual, joined)
    dropping = adapted_mlp(tiny_model, join=True, dropout=0.5).train()
    assert "forward" not in vars(dropping.up_proj)
