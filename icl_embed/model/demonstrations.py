"""Examples as embeddings: each takes one place in the prompt instead of its text (EPIC, arXiv 2605.01372).

An example is embedded by the model itself like any other text, and a linear projection carries the unit
vector into the space of input embeddings. It is trained together with the model, through both passes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icl_embed.errors import ModelError

FILE_NAME = "demonstrations.safetensors"


class DemonstrationProjection(nn.Module):
    """Unit vectors [S, D] to input embeddings [S, D]; at first a mere scaling to their usual length."""

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        length = embeddings.float().norm(dim=1).mean().item()
        identity = torch.eye(embeddings.shape[1], dtype=embeddings.dtype, device=embeddings.device)
        self.weight = nn.Parameter(length * identity)

    def forward(self, vectors: Tensor) -> Tensor:
        """Project."""
        return nn.functional.linear(vectors.to(self.weight.dtype), self.weight)


def add_demonstrations(model: Any) -> None:
    """Give a model a fresh projection, as ``model.demonstrations``."""
    model.demonstrations = DemonstrationProjection(model.get_input_embeddings().weight.detach())


def take_demonstrations(model: Any, folder: Path) -> None:
    """Write the projection beside the weights, and remove it: what is left is a plain model, or adapted."""
    from safetensors.torch import save_file

    owner = model.get_base_model() if hasattr(model, "get_base_model") else model
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"weight": owner.demonstrations.weight.detach().cpu()}, folder / FILE_NAME)
    del owner.demonstrations


def load_demonstrations(model: Any, folder: Path) -> None:
    """Give a model the projection that was written beside its weights.

    Raises
        ModelError: missing, damaged, or of another width.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    add_demonstrations(model)
    try:
        model.demonstrations.load_state_dict(load_file(folder / FILE_NAME))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"model.template.demonstrations is on, but {folder / FILE_NAME} cannot be used: {error}"
        ) from error
