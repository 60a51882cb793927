"""One tiny reranker per backbone family, and the pairs that all tests score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from icl_embed.config import RerankConfig
from icl_embed.rerank.folder import start_from
from icl_embed.rerank.reranker import Reranker
from tests.tiny_models import build_model

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2")
CONFIG = RerankConfig(start_layer=1, layer_step=1, compress_layers=(1, 2), max_tokens=96)
PAIRS = [
    ("the red cat", "a dog in water"),
    ("the red cat", "sun moon star tree river stone fire " * 3),
    ("the red cat", "fish"),
    ("which bird is big", "the big bird is blue and fast"),
]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("rerank")
    return lambda family: (
        root / family if (root / family).exists() else build_model(root / family, family, layers=4)
    )


@pytest.fixture(scope="session")
def reference(folders: Callable[[str], Path]) -> Callable[[str], Any]:
    """The backbone as transformers runs it: eager attention over one unpadded text."""
    from transformers import AutoModel

    return lambda family: AutoModel.from_pretrained(
        folders(family), dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.fixture
def make_reranker(folders: Callable[[str], Path]) -> Callable[..., Reranker]:
    """A fresh reranker whose heads all differ, so that reading the wrong one changes the score."""

    def make(family: str = "llama", config: RerankConfig = CONFIG) -> Reranker:
        model, tokenizer, settings = start_from(
            folders(family), config, device=torch.device("cpu"), dtype=torch.float32
        )
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for layer in model.heads.layers:
                model.heads.by_layer[str(layer)].normal_(generator=generator)
        return Reranker(model.eval(), tokenizer, settings)

    return make


@pytest.fixture
def reranker(make_reranker: Callable[..., Reranker]) -> Reranker:
    return make_reranker()
