from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from icl_embed.errors import ConfigError, ModelError
from icl_embed.rerank.reranker import Reranker
from icl_embed.rerank.shape import Shape
from icl_embed.rerank.ways import Cascade
from tests.icl_embed.rerank.conftest import CONFIG
from tests.tiny_models import WORDS

QUERY = "the red cat"
PASSAGES = [" ".join(WORDS[spot : spot + 1 + spot * 3 % 11]) for spot in range(14)]
PAIRS = [(QUERY, passage) for passage in PASSAGES]
CASCADE = Cascade(((1, 0.6), (3, 4)), Shape(4))


def by_hand(exits: dict[int, Sequence[float]], cascade: Cascade) -> list[int]:
    """The order a person would write down: keep the best, then rank each layer's leftovers below."""
    left, order = list(range(len(exits[cascade.shape.cutoff_layer]))), []
    for layer, keep in cascade.stages:
        ranked = sorted(left, key=lambda one: (-exits[layer][one], one))
        count = keep if isinstance(keep, int) else int(np.ceil(keep * len(left)))
        left, dropped = sorted(ranked[:count]), ranked[count:]
        order = dropped + order
    return sorted(left, key=lambda one: (-exits[cascade.shape.cutoff_layer][one], one)) + order


def read_off(exits: dict[int, Sequence[float]]) -> Callable[[int, Sequence[int]], np.ndarray]:
    """What a cascade reads, from a pass that shows all exits."""
    return lambda layer, candidates: np.array(exits[layer])[list(candidates)]


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("batch_tokens", [8192, 60])
def test_a_cascade_ranks_as_if_every_stage_had_been_scored_in_full(
    make_reranker: Callable[..., Reranker], family: str, pooling: str, batch_tokens: int
) -> None:
    reranker = make_reranker(family, CONFIG.model_copy(update={"compress_pooling": pooling}))
    for shape in (Shape(4), Shape(4, 2, (1, 3)), Shape(4, 4, (2,))):
        cascade = Cascade(CASCADE.stages, shape)
        whole = reranker.score_exits(PAIRS, shape)
        exits = dict(zip(whole.layers, whole.scores.tolist(), strict=True))
        found = reranker.score_cascade(PAIRS, cascade, batch_tokens=batch_tokens)
        assert np.argsort(-found.scores, kind="stable").tolist() == by_hand(exits, cascade)
        assert (found.layers == 4).sum() == 4
        assert (found.layers == 1).sum() == 14 - 9
        kept = found.layers == 4
        np.testing.assert_allclose(found.scores[kept], whole.scores[-1][kept], rtol=1e-5, atol=1e-5)
        [simulated] = cascade.outcomes(read_off(exits), [len(PAIRS)])
        assert np.argsort(-simulated.scores).tolist() == np.argsort(-found.scores).tolist()


def test_those_left_behind_never_meet_a_deeper_layer(reranker: Reranker) -> None:
    tokens: list[int] = []
    for layer in reranker.model.decoder.layers:
        layer.register_forward_hook(lambda _, args, __: tokens.append(args[0].shape[1]))
    reranker.score_cascade(PAIRS, CASCADE)
    assert len(tokens) == 4
    assert tokens[0] > tokens[1] == tokens[2] > tokens[3]


def test_a_query_of_several_batches_is_computed_once(reranker: Reranker) -> None:
    tokens: list[int] = []
    for layer in reranker.model.decoder.layers:
        layer.register_forward_hook(lambda _, args, __: tokens.append(args[0].shape[1]))
    reranker.score_cascade(PAIRS, CASCADE, batch_tokens=60)
    query = len(reranker.pairs.pairs(PAIRS[:1])[0].query)
    assert tokens.count(query) == 4
    assert len(tokens) > 8


def test_each_query_is_sifted_apart_and_costs_are_its_own(reranker: Reranker) -> None:
    other = [("which bird is big", passage) for passage in PASSAGES[:5]]
    mixed = [PAIRS[0], *other, *PAIRS[1:], PAIRS[0]]
    found = reranker.score_cascade(mixed, CASCADE)
    alone, second = reranker.score_cascade(PAIRS, CASCADE), reranker.score_cascade(other, CASCADE)
    np.testing.assert_allclose(found.scores[[0, *range(6, 19)]], alone.scores, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.scores[1:6], second.scores, rtol=1e-5, atol=1e-5)
    assert found.scores[-1] == found.scores[0]
    assert found.flops == (*alone.flops, *second.flops)
    assert found.seconds > 0
    assert reranker.score_cascade([], CASCADE).flops == ()


def test_short_searches_share_their_batches_and_a_long_one_is_cut(reranker: Reranker) -> None:
    searches = [[(f"{color} cat", passage) for passage in PASSAGES[:6]] for color in ("red", "big", "the")]
    pairs = [*searches[0], *PAIRS, *searches[1], *searches[2]]
    tokens: list[int] = []
    reranker.model.decoder.layers[0].register_forward_hook(
        lambda _, args, __: tokens.append(args[0].shape[1])
    )
    alone = [reranker.score_cascade(search, CASCADE).scores for search in searches]
    lengths, tokens[:] = list(tokens), []
    together = reranker.score_cascade(pairs, CASCADE)
    assert len(tokens) == 1
    limit = sum(lengths)
    tokens.clear()
    cut = reranker.score_cascade(pairs, CASCADE, batch_tokens=limit)
    assert max(tokens) <= limit
    assert limit in tokens
    for found in (together, cut):
        for start, expected in zip((0, 20, 26), alone, strict=True):
            np.testing.assert_allclose(found.scores[start : start + 6], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found.layers, together.layers)
        assert found.flops == together.flops


def test_rank_with_a_cascade_gives_the_cascades_top(reranker: Reranker) -> None:
    scores = reranker.score_cascade(PAIRS, CASCADE).scores
    ranked = reranker.rank(QUERY, PASSAGES, top_k=6, cascade=CASCADE)
    assert [item.position for item in ranked] == np.argsort(-scores, kind="stable")[:6].tolist()
    with pytest.raises(ConfigError, match="shape of its own"):
        reranker.rank(QUERY, PASSAGES, cascade=CASCADE, cutoff_layer=3)


@settings(max_examples=100, deadline=None)
@example([(0.0, 0.0, 40.0), (1e-40, 0.0, 1.0), (2e-40, 1e-40, 2.0), (5.0, 2e-40, 3.0)], 2, 1)
@given(
    st.lists(st.tuples(*[st.floats(-50, 50, width=32)] * 3), min_size=1, max_size=12),
    st.sampled_from([1, 2, 5, 0.3, 0.5, 1.0]),
    st.sampled_from([1, 3, 0.5]),
)
def test_the_scores_of_a_cascade_order_all_candidates_and_ties_keep_their_order(
    values: list[tuple[float, ...]], first: float, second: float
) -> None:
    cascade = Cascade(((1, first), (2, second)), Shape(4))
    exits = {layer: [one[number] for one in values] for number, layer in enumerate((1, 2, 4))}
    [found] = cascade.outcomes(read_off(exits), [len(values)])
    assert np.argsort(-found.scores, kind="stable").tolist() == by_hand(exits, cascade)
    kept = list(found.reached[-1])
    assert found.scores[kept].tolist() == [exits[4][one] for one in kept]


def test_a_share_is_rounded_up_but_not_by_rounding_errors() -> None:
    [found] = Cascade(((1, 0.07),), Shape(4)).outcomes(lambda _, left: np.zeros(len(left)), [100])
    assert [len(one) for one in found.reached] == [100, 7]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "at least one"),
        (((2, 0.5), (1, 3)), "ascending"),
        (((2, 0.5), (2, 3)), "ascending"),
        (((4, 0.5),), "before the cutoff at layer 4"),
        (((2, 0),), "keeps 0"),
        (((2, 0.0),), "keeps 0.0"),
        (((2, 1.5),), "keeps 1.5"),
        (((2, True),), "keeps True"),
    ],
)
def test_an_impossible_cascade_is_refused(stages: tuple[tuple[int, float], ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Cascade(stages, Shape(4))


def test_a_cascade_of_another_models_heads_is_refused(make_reranker: Callable[..., Reranker]) -> None:
    reranker = make_reranker(config=CONFIG.model_copy(update={"start_layer": 2}))
    with pytest.raises(ConfigError, match=r"reads layers \[1\]"):
        reranker.score_cascade(PAIRS, CASCADE)


def test_a_score_that_is_not_finite_is_refused_where_it_appears(reranker: Reranker) -> None:
    with torch.no_grad():
        reranker.model.heads.by_layer["3"][0] = torch.nan
    with pytest.raises(ModelError, match="at layer 3 is not finite"):
        reranker.score_cascade(PAIRS, CASCADE)
