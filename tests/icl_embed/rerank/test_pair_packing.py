"""The packed forward against the slow, obvious one, and the maps that packing draws."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_embed.errors import ConfigError, ModelError
from icl_embed.rerank.decoder import QueryStates, merge_states
from icl_embed.rerank.model import RerankerModel
from icl_embed.rerank.pairs import PairTokens, pack_pairs, rearrange
from icl_embed.rerank.reranker import Reranker
from icl_embed.rerank.shape import Shape
from tests.icl_embed.rerank.conftest import CONFIG, FAMILIES
from tests.icl_embed.rerank.slow import slow_scores, slowly_compressed

MakeReranker = Callable[..., Reranker]
Reference = Callable[[str], Any]

CPU = torch.device("cpu")
SHAPES = (Shape(4), Shape(2), Shape(4, 2, (1,)), Shape(4, 4, (1, 2, 3)), Shape(3, 8, (2,)))


def random_pairs(count: int, *, queries: int, seed: int = 0) -> list[PairTokens]:
    """Pairs of unequal lengths, from one token up, with some queries in common."""
    rng = random.Random(seed)

    def tokens(longest: int) -> list[int]:
        return [rng.randrange(3, 500) for _ in range(rng.randint(1, longest))]

    starts = [tokens(9) for _ in range(queries)]
    return [PairTokens(rng.choice(starts), tokens(40), [7, 8, 9]) for _ in range(count)]


PAIRS = random_pairs(9, queries=3)


def all_scores(model: RerankerModel, pairs: list[PairTokens], shape: Shape, **how: Any) -> torch.Tensor:
    packed = pack_pairs(pairs, **how)
    return torch.stack([scores for _, scores in model.walk(packed, shape)])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_a_packed_pass_equals_one_pair_at_a_time(
    make_reranker: MakeReranker, reference: Reference, family: str, pooling: str
) -> None:
    model = make_reranker(family, CONFIG.model_copy(update={"compress_pooling": pooling})).model
    decoder = reference(family)
    with torch.no_grad():
        for shape in SHAPES:
            slow = [slow_scores(decoder, model.heads, pair, shape, pooling) for pair in PAIRS]
            expected = torch.tensor([[one[layer] for one in slow] for layer in slow[0]])
            for how in ({}, {"share_queries": False}):
                found = all_scores(model, PAIRS, shape, **how)
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_gradients_equal_those_of_one_pair_at_a_time(
    make_reranker: MakeReranker, reference: Reference, family: str, pooling: str
) -> None:
    model = make_reranker(family, CONFIG.model_copy(update={"compress_pooling": pooling})).model
    decoder = reference(family)
    directions = torch.linspace(-1, 1, len(PAIRS))

    def gradients(part: Any, loss: torch.Tensor) -> list[torch.Tensor]:
        weights = [
            part.embed_tokens.weight,
            part.layers[0].self_attn.q_proj.weight,
            part.layers[2].mlp.up_proj.weight,
        ]
        return list(torch.autograd.grad(loss, weights))

    for shape in (Shape(4), Shape(4, 2, (1, 2))):
        slow = [slow_scores(decoder, model.heads, pair, shape, pooling) for pair in PAIRS]
        total = sum(
            one[layer] * weight for one, weight in zip(slow, directions, strict=True) for layer in one
        )
        expected = gradients(decoder, total)
        found = gradients(model.decoder, (all_scores(model, PAIRS, shape) * directions).sum())
        for one, other in zip(found, expected, strict=True):
            assert other.abs().max() > 1e-3
            assert (one - other).abs().max() < 1e-5 * max(1.0, float(other.abs().max()))


def test_the_company_of_a_pair_changes_no_score(make_reranker: MakeReranker) -> None:
    model = make_reranker("gemma2").model
    rng = random.Random(1)
    with torch.no_grad():
        for shape in (Shape(4), Shape(4, 2, (1, 3))):
            alone = torch.cat([all_scores(model, [pair], shape) for pair in PAIRS], dim=1)
            for size in (2, 5, 9):
                chosen = rng.sample(range(len(PAIRS)), size)
                found = all_scores(model, [PAIRS[number] for number in chosen], shape)
                torch.testing.assert_close(found, alone[:, chosen], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_the_states_of_a_query_serve_several_batches_and_no_deeper_than_asked(
    make_reranker: MakeReranker, family: str, pooling: str
) -> None:
    model = make_reranker(family, CONFIG.model_copy(update={"compress_pooling": pooling})).model
    pairs = [PairTokens(PAIRS[0].query, pair.passage, pair.after) for pair in PAIRS]
    with torch.no_grad():
        query = QueryStates(model.decoder, PAIRS[0].query)
        for shape in (Shape(2), Shape(3, 2, (1,))):
            expected = all_scores(model, pairs, shape)
            for batch in (slice(0, 4), slice(4, 9)):
                packed = pack_pairs(pairs[batch], shared=query.states)
                found = torch.stack([scores for _, scores in model.walk(packed, shape, query)])
                torch.testing.assert_close(found, expected[:, batch], rtol=1e-5, atol=1e-5)
            assert len(query.states.keys) == shape.cutoff_layer


def test_a_query_stands_once_in_a_packed_batch_and_nothing_is_padded() -> None:
    packed = pack_pairs(PAIRS)
    queries = {tuple(pair.query): 0 for pair in PAIRS}
    assert len(queries) == 3
    assert len(packed.tokens) == sum(map(len, queries)) + sum(len(pair) - len(pair.query) for pair in PAIRS)
    for row, pair in zip(packed.rows, PAIRS, strict=True):
        start = row.start + row.before
        assert packed.tokens[start : start + row.passage].tolist() == pair.passage
        assert packed.tokens[row.stop - row.after : row.stop].tolist() == pair.after
        assert int(packed.positions[row.stop - 1]) == len(pair) - 1
    assert len(pack_pairs(PAIRS, share_queries=False).tokens) == sum(map(len, PAIRS))


LENGTHS = st.tuples(st.integers(0, 4), st.integers(1, 19), st.integers(1, 3))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), LENGTHS), min_size=1, max_size=6),
    st.sampled_from([1, 2, 4, 8]),
    st.booleans(),
    st.integers(0, 99),
)
def test_compression_equals_a_slow_loop(
    lengths: list[tuple[int, tuple[int, int, int]]], ratio: int, is_weighted: bool, seed: int
) -> None:
    """Also twice in a row, and for pairs that share a query (those with the same first number)."""
    generator = torch.Generator().manual_seed(seed)
    pairs = [
        PairTokens([10 + query] * (query + 1), [50 + middle] * passage, [9] * after)
        for query, (middle, passage, after) in lengths
    ]
    packed = pack_pairs(pairs)
    states = torch.randn(len(packed.tokens), 3, generator=generator)
    looks = torch.randn(len(states), generator=generator) * 40 if is_weighted else None
    for _ in range(2):
        merge, after = rearrange(packed.rows, ratio, device=CPU)
        found = merge_states(states, merge, ratio, looks)
        assert torch.isfinite(found).all()
        for old, new in zip(packed.rows, after.rows, strict=True):
            spots = [*range(old.query_start, old.query_start + old.query_length)]
            spots += range(old.start, old.stop)
            parts = (old.query_length + old.before, old.passage, old.after)
            weights = None if looks is None else looks[spots].double().softmax(0)
            expected = slowly_compressed(states[spots].double(), parts, ratio, weights).float()
            mine = [*range(new.query_start, new.query_start + new.query_length)]
            mine += range(new.start, new.stop)
            torch.testing.assert_close(found[mine], expected, rtol=1e-4, atol=1e-5)
            assert after.positions[mine].tolist() == list(range(len(mine)))
            assert new.passage == -(-old.passage // ratio)
        packed, states, looks = after, found, None


def test_attention_weights_stay_finite_where_attention_vanishes(make_reranker: MakeReranker) -> None:
    """Attention of e⁻²⁰⁰⁰ is zero in any float: a group that nobody looks at must still have a mean."""
    model = make_reranker("llama", CONFIG.model_copy(update={"compress_pooling": "attention"})).model
    with torch.no_grad():
        model.decoder.layers[0].self_attn.q_proj.weight.mul_(1e4)
    scores = all_scores(model, PAIRS, Shape(4, 4, (1,)))
    assert torch.isfinite(scores).all()
    scores.sum().backward()
    assert all(torch.isfinite(one.grad).all() for one in model.parameters() if one.grad is not None)


def test_attention_weights_need_a_layer_before_them(make_reranker: MakeReranker) -> None:
    model = make_reranker("llama", CONFIG.model_copy(update={"compress_pooling": "attention"})).model
    with pytest.raises(ConfigError, match="no layer runs before"):
        all_scores(model, PAIRS, Shape(4, 2, (0,)))


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_a_pair_longer_than_the_window_is_refused(make_reranker: MakeReranker, family: str) -> None:
    model = make_reranker(family).model
    model.decoder.config.sliding_window = 12
    for layer in model.decoder.layers[::2]:
        layer.self_attn.sliding_window = 12
    pairs = [PairTokens([3] * 4, [4] * 4, [5] * 4), PairTokens([3] * 4, [4] * 5, [5] * 4)]
    assert torch.isfinite(all_scores(model, pairs[:1], Shape(4))).all()
    with pytest.raises(ModelError, match="takes 13 tokens, but the model only looks back 12"):
        all_scores(model, pairs, Shape(4))
