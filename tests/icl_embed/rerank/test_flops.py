from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel

from icl_embed.rerank.compress import make_rows
from icl_embed.rerank.decoder import QueryPrefix
from icl_embed.rerank.flops import costs_of
from icl_embed.rerank.model import RerankerModel, ScoreHeads
from icl_embed.rerank.pair_tokens import PairTokens
from icl_embed.rerank.score import Reranker
from icl_embed.rerank.shape import Shape
from tests.icl_embed.rerank.conftest import FAMILIES

SHAPES = (Shape(4), Shape(2), Shape(4, 2, (1,)), Shape(3, 8, (1, 2)))
PAIR = PairTokens(query=[3] * 21, passage=[4] * 61, prompt=[5] * 9)

# Published sizes: SmolLM2-135M and gemma-2-9b.
REAL = {
    "llama": dict(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, head_dim=64, vocab_size=49152, pad_token_id=0,
    ),
    "gemma2": dict(
        hidden_size=3584, intermediate_size=14336, num_hidden_layers=42, num_attention_heads=16,
        num_key_value_heads=8, head_dim=256, vocab_size=256000,
    ),
}  # fmt: skip


def counted(model: RerankerModel, shape: Shape, *, after_query: bool = False) -> int:
    """What torch's counter sees; its table has no entry for the fused CPU attention, so that is unfused."""
    rows = make_rows([PAIR], 0, after_query=after_query)
    with torch.no_grad():
        prefix = QueryPrefix(model.decoder, PAIR.query) if after_query else None
        for layer in range(shape.cutoff_layer if prefix else 0):
            assert prefix is not None
            prefix.reach(layer)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(rows, shape, prefix)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_count_agrees_with_torch_on_tiny_models(
    make_reranker: Callable[..., Reranker], family: str, shape: Shape
) -> None:
    model = make_reranker(family).model
    costs = costs_of(model.decoder)
    lengths = (len(PAIR.query), len(PAIR.passage), len(PAIR.prompt))
    assert costs.passes(*lengths, shape) == pytest.approx(counted(model, shape), rel=0.02)
    assert costs.candidate(*lengths, shape) == pytest.approx(
        counted(model, shape, after_query=True), rel=0.02
    )
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        QueryPrefix(model.decoder, PAIR.query).reach(shape.cutoff_layer - 1)
    assert costs.prefix(lengths[0], shape) == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("family", REAL)
@pytest.mark.parametrize("shape", [Shape(-1), Shape(20, 2, (8,))], ids=str)
def test_the_count_agrees_with_torch_on_models_of_real_shape(family: str, shape: Shape) -> None:
    config = AutoConfig.for_model(family, **REAL[family])
    depth = config.num_hidden_layers
    shape = Shape(depth) if shape.cutoff_layer < 0 else shape
    with torch.device("meta"):
        model = RerankerModel(
            AutoModel.from_config(config), ScoreHeads([20, depth], config.hidden_size)
        ).eval()
    lengths = (len(PAIR.query), len(PAIR.passage), len(PAIR.prompt))
    expected = costs_of(model.decoder).passes(*lengths, shape)
    assert counted(model, shape) == pytest.approx(expected, rel=0.02)


def test_the_papers_headline_saving_is_found_on_its_own_model() -> None:
    """gemma-2-9b, compression 2 entering layer 8, exit at 25: 57 % at query 32 / passage 192 (not 60)."""
    config = AutoConfig.for_model("gemma2", **REAL["gemma2"])
    with torch.device("meta"):
        costs = costs_of(AutoModel.from_config(config))
    full = costs.passes(37, 192, 15, Shape(42))
    light = costs.passes(37, 192, 15, Shape(25, 2, (8,)))
    assert 1 - light / full == pytest.approx(0.57, abs=0.01)


def test_sharing_the_query_saves_its_part_for_all_but_one(reranker: Reranker) -> None:
    costs = costs_of(reranker.model.decoder)
    shape = Shape(4)
    apart = costs.ranking([PAIR] * 10, shape, share_query=False)
    shared = costs.ranking([PAIR] * 10, shape)
    assert apart == 10 * costs.passes(21, 61, 9, shape)
    assert 0.1 < 1 - shared / apart < 21 / 91
    assert costs.ranking([PAIR], shape) == costs.passes(21, 61, 9, shape)
