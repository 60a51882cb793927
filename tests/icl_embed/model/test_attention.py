"""Every way to compute packed attention on a CPU gives softmax attention."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from icl_embed.model import attention
from icl_embed.model.embedder import Embedder

TEXTS = ["sun", "the big moon and the small star", "moon"]

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN"
)


@needs_onednn
@pytest.mark.parametrize("rows", [5, 2 * attention.ROWS_IN_CACHE + 3])
def test_attention_to_a_prefix_by_products_equals_softmax_attention(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(2)
    query, key, value = (torch.randn(1, 2, size, 8, generator=generator) for size in (rows, 11, 11))
    query = 30 * query  # large scores: a sum of plain exponentials would overflow
    monkeypatch.setattr(attention, "onednn_is_faster", lambda _dtype: True)
    with torch.inference_mode():
        out, lse = attention._attend_far(query, key, value)
    assert torch.allclose(out, F.scaled_dot_product_attention(query, key, value, scale=1.0), atol=1e-4)
    assert torch.allclose(lse, (query @ key.transpose(2, 3)).logsumexp(-1), rtol=1e-5)


@pytest.mark.parametrize("is_fast", [pytest.param(True, marks=needs_onednn), False])
def test_every_way_to_attend_to_a_prefix_gives_the_same(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, is_fast: bool
) -> None:
    embedder = Embedder.load(tiny_model, device="cpu", dtype="float32")
    whole = embedder.encode_queries(TEXTS, instruction="find")
    monkeypatch.setattr(attention, "SHORT_ROW", 0)
    monkeypatch.setattr(attention, "onednn_is_faster", lambda _dtype: is_fast)
    assert abs(embedder.encode_queries(TEXTS, instruction="find") - whole).max() < 1e-5


@pytest.mark.parametrize("block", [1, 1000, 2**20])
@pytest.mark.parametrize("prefix_tokens", [0, 5])
def test_whole_scores_equal_softmax_attention(
    block: int, prefix_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(3)
    rows, heads, key_heads, length = 7, 6, 2, 9
    query = torch.randn(heads, rows, length, 4, generator=generator).transpose(0, 1)  # as `_rows` leaves it
    key, value = (torch.randn(rows, key_heads, length, 4, generator=generator) for _ in range(2))
    far_key, far_value = (torch.randn(1, key_heads, prefix_tokens, 4, generator=generator) for _ in range(2))
    monkeypatch.setattr(attention, "SCORES_IN_CACHE", block)
    with torch.inference_mode():
        found = attention._attend_short(query, key, value, (far_key, far_value) if prefix_tokens else None)
    for row in range(rows):
        for head in range(heads):
            own = head // (heads // key_heads)
            keys = torch.cat([far_key[0, own], key[row, own]])
            values = torch.cat([far_value[0, own], value[row, own]])
            for spot in range(length):
                seen = prefix_tokens + spot + 1
                weights = (keys[:seen] @ query[row, head, spot]).softmax(0)
                assert torch.allclose(found[row, head, spot], weights @ values[:seen], atol=1e-5)
