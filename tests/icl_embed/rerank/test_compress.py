from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_embed.rerank.compress import Layout, compress, make_rows
from icl_embed.rerank.score import Reranker
from icl_embed.rerank.shape import Shape
from tests.icl_embed.rerank.conftest import FAMILIES, PAIRS

LENGTHS = st.tuples(st.integers(0, 4), st.integers(1, 19), st.integers(1, 3))


def layout_of(lengths: list[tuple[int, int, int]]) -> Layout:
    before, passage, after = (torch.tensor(column) for column in zip(*lengths, strict=True))
    return Layout(before + passage + after, before, passage)


def compress_slowly(states: torch.Tensor, before: int, passage: int, after: int, ratio: int) -> torch.Tensor:
    """One row, one group at a time."""
    rows = list(states[:before])
    for start in range(before, before + passage, ratio):
        rows.append(states[start : min(start + ratio, before + passage)].mean(dim=0))
    return torch.stack(rows + list(states[before + passage : before + passage + after]))


@settings(max_examples=80, deadline=None)
@given(st.lists(LENGTHS, min_size=1, max_size=5), st.sampled_from([1, 2, 4, 8]), st.integers(0, 99))
def test_compression_equals_a_slow_loop(lengths: list[tuple[int, int, int]], ratio: int, seed: int) -> None:
    layout = layout_of(lengths)
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(len(lengths), int(layout.lengths.max()), 3, generator=generator)
    found, after = compress(states, layout, ratio)
    assert torch.isfinite(found).all()
    assert found.shape[1] == int(after.lengths.max())
    for row, parts in enumerate(lengths):
        expected = compress_slowly(states[row], *parts, ratio)
        torch.testing.assert_close(found[row, : int(after.lengths[row])], expected)
    assert (after.lengths - after.passage_start - after.passage_length).tolist() == [p[2] for p in lengths]


def test_gradients_reach_every_real_token_once_and_padding_never() -> None:
    layout = layout_of([(2, 5, 1), (1, 3, 1)])
    states = torch.randn(2, 8, 3, requires_grad=True)
    found, after = compress(states, layout, 2)
    real = torch.arange(found.shape[1])[None, :] < after.lengths[:, None]
    (found * real[:, :, None]).sum().backward()
    assert states.grad is not None
    weight = states.grad[:, :, 0]
    assert weight[0].tolist() == [1, 1, 0.5, 0.5, 0.5, 0.5, 1, 1]
    assert weight[1].tolist() == [1, 0.5, 0.5, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_a_compressed_pass_equals_one_row_at_a_time_by_hand(
    make_reranker: Callable[..., Reranker], family: str, ratio: int
) -> None:
    """Runs each row alone, compresses it with the slow loop and lets transformers renumber the rest."""
    reranker = make_reranker(family)
    decoder = reranker.model.decoder
    shape = Shape(4, ratio, (1, 2))
    rows = make_rows(reranker.pairs.pairs(PAIRS), reranker.pairs.pad)
    with torch.no_grad():
        found = reranker.model(rows, shape)
        for row, pair in enumerate(reranker.pairs.pairs(PAIRS)):
            ids = torch.tensor([pair.query + pair.passage + pair.prompt])
            states, passage = decoder.embed_tokens(ids), len(pair.passage)
            for layer in range(4):
                if layer in shape.compress_layers:
                    parts = (len(pair.query), passage, len(pair.prompt))
                    states = compress_slowly(states[0], *parts, ratio)[None]
                    passage = -(-passage // ratio)
                positions = torch.arange(states.shape[1])[None, :]
                length = states.shape[1]
                causal = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
                states = decoder.layers[layer](
                    states,
                    attention_mask=causal[None, None],
                    position_ids=positions,
                    position_embeddings=decoder.rotary_emb(states, positions),
                )
            score = reranker.model.heads(4, decoder.norm(states[:, -1]))[0]
            cap = getattr(decoder.config, "final_logit_softcapping", None)
            score = cap * torch.tanh(score / cap) if cap else score
            torch.testing.assert_close(found[row], score, rtol=1e-4, atol=1e-5)


def test_padding_does_not_change_a_score(reranker: Reranker) -> None:
    tokens = reranker.pairs.pairs(PAIRS)
    for shape in (Shape(4), Shape(4, 4, (1, 2))):
        with torch.no_grad():
            together = reranker.model(make_rows(tokens, reranker.pairs.pad), shape).numpy()
            alone = [reranker.model(make_rows([one], reranker.pairs.pad), shape).item() for one in tokens]
            other_pad = reranker.model(make_rows(tokens, 5), shape).numpy()
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(together, other_pad)
