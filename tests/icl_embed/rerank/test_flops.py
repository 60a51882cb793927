from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel

from icl_embed.config import RerankConfig
from icl_embed.errors import ConfigError
from icl_embed.rerank.flops import Costs, costs_of, query_flops
from icl_embed.rerank.model import RerankerModel, ScoreHeads
from icl_embed.rerank.pairs import PairTokens, pack_pairs
from icl_embed.rerank.reranker import Reranker
from icl_embed.rerank.shape import Shape
from icl_embed.rerank.ways import Cascade, run_cascade
from tests.icl_embed.rerank.conftest import CONFIG, FAMILIES

SHAPES = (Shape(4), Shape(2), Shape(4, 2, (1,)), Shape(3, 8, (1, 2)))
PAIR = PairTokens(query=[3] * 21, passage=[4] * 61, after=[5] * 9)
CANDIDATES = [PairTokens([3] * 21, [4] * length, [5] * 9) for length in (61, 7, 58, 30, 1, 44, 120, 29)]

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


def counted(run: Callable[[], Any]) -> int:
    """What torch's counter sees.

    Its table has no entry for the fused attention on CPU nor for oneDNN's products. With a graph, attention
    to a shared query is plain products; without one, and for the rest, torch's own attention is unfused here.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("share", [True, False], ids=["shared", "apart"])
def test_the_count_agrees_with_torch_on_tiny_models(
    make_reranker: Callable[..., Reranker], family: str, shape: Shape, share: bool
) -> None:
    model = make_reranker(family).model
    costs = costs_of(model.decoder)
    for pairs in (CANDIDATES, [PAIR]):
        found = counted(lambda pairs=pairs: model(pack_pairs(pairs, share_queries=share), shape))
        assert query_flops(costs, pairs, shape, share_queries=share) == pytest.approx(found, rel=0.02)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [Shape(4), Shape(4, 2, (1, 3))], ids=str)
def test_the_count_of_a_cascade_agrees_with_torch(
    make_reranker: Callable[..., Reranker], family: str, shape: Shape
) -> None:
    model = make_reranker(family).model
    cascade = Cascade(((1, 0.7), (2, 3)), shape)
    reached = []

    def run() -> None:
        [outcome] = run_cascade(model, [CANDIDATES], cascade, batch_tokens=10_000)
        reached.extend(outcome.reached)

    found = counted(run)
    assert [len(one) for one in reached] == [8, 6, 3]
    costs = costs_of(model.decoder)
    assert query_flops(costs, CANDIDATES, cascade, reached=reached) == pytest.approx(found, rel=0.02)
    assert found < 0.9 * query_flops(costs, CANDIDATES, shape)
    with pytest.raises(ConfigError, match="reads 3 layers"):
        query_flops(costs, CANDIDATES, cascade)


def test_the_count_knows_what_attention_weights_cost(make_reranker: Callable[..., Reranker]) -> None:
    config: RerankConfig = CONFIG.model_copy(update={"compress_pooling": "attention"})
    model = make_reranker("llama", config).model
    shape = Shape(2, 4, (1,))
    plain, weighted = (
        query_flops(costs_of(model.decoder, pooling), CANDIDATES, shape) for pooling in ("mean", "attention")
    )
    found = counted(lambda: model(pack_pairs(CANDIDATES), shape))
    assert weighted == pytest.approx(found, rel=0.005)
    assert 0 < weighted - plain < 0.02 * plain


@pytest.mark.parametrize("family", REAL)
@pytest.mark.parametrize("shape", [Shape(-1), Shape(20, 2, (8,))], ids=str)
def test_the_count_agrees_with_torch_on_models_of_real_shape(family: str, shape: Shape) -> None:
    config = AutoConfig.for_model(family, **REAL[family])
    depth = config.num_hidden_layers
    shape = Shape(depth) if shape.cutoff_layer < 0 else shape
    meta = torch.device("meta")
    with meta:
        model = RerankerModel(
            AutoModel.from_config(config), ScoreHeads([20, depth], config.hidden_size)
        ).eval()
    found = counted(lambda: model(pack_pairs(CANDIDATES, device=meta), shape))
    assert query_flops(costs_of(model.decoder), CANDIDATES, shape) == pytest.approx(found, rel=0.02)


def gemma() -> Costs:
    with torch.device("meta"):
        return costs_of(AutoModel.from_config(AutoConfig.for_model("gemma2", **REAL["gemma2"])))


def test_the_papers_headline_saving_is_found_on_its_own_model() -> None:
    """gemma-2-9b, compression 2 entering layer 8, exit at 25: 57 % at query 32 / passage 192 (not 60)."""
    pair, costs = PairTokens([3] * 37, [4] * 192, [5] * 15), gemma()
    light, full = (query_flops(costs, [pair], shape) for shape in (Shape(25, 2, (8,)), Shape(42)))
    assert 1 - light / full == pytest.approx(0.57, abs=0.01)


def test_sharing_the_query_saves_its_part_for_all_but_one(reranker: Reranker) -> None:
    costs = costs_of(reranker.model.decoder)
    shape = Shape(4)
    one = query_flops(costs, [PAIR], shape)
    apart = query_flops(costs, [PAIR] * 10, shape, share_queries=False)
    assert apart == 10 * one
    assert 0.1 < 1 - query_flops(costs, [PAIR] * 10, shape) / apart < 21 / 91
    assert query_flops(costs, [], shape) == 0
