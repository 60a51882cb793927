"""Every way to compute packed attention on a CPU gives softmax attention."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

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


def states(dtype: torch.dtype, *, rows: int = 5, length: int = 6, prefix: int = 4) -> list[torch.Tensor]:
    """Queries [R, 4, L, 8], keys and values [R, 2, L, 8], keys and values [1, 2, P, 8] of a prefix."""
    generator = torch.Generator().manual_seed(5)
    shapes = [(rows, 4, length), (rows, 2, length), (rows, 2, length), (1, 2, prefix), (1, 2, prefix)]
    return [torch.randn(*shape, 8, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def hidden(kind: str, rows: int = 5, length: int = 6) -> torch.Tensor:
    """The future, or padding behind rows of several lengths."""
    if kind == "causal":
        return torch.ones(length, length, dtype=torch.bool).triu(1)[None, None]
    lengths = 1 + torch.arange(rows) % length
    return (torch.arange(length) >= lengths[:, None])[:, None, None, :]


class LargestTensor(TorchDispatchMode):
    """The most numbers that any result of an operation holds."""

    numbers = 0

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(one, torch.Tensor):
                self.numbers = max(self.numbers, one.numel())
        return result


@pytest.mark.parametrize("kind", ["causal", "padding"])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("has_prefix", [True, False])
def test_the_formula_holds_the_scores_of_few_rows_and_gives_the_same_gradients(
    monkeypatch: pytest.MonkeyPatch, kind: str, softcap: float | None, has_prefix: bool
) -> None:
    found = []
    of_a_row = 4 * 6 * (6 + 4 * has_prefix)
    for limit in (2**26, 2 * of_a_row, 1):
        monkeypatch.setattr(attention, "SCORES_AT_ONCE", limit)
        given = [one.requires_grad_() for one in states(torch.float64, rows=20)]
        far = (given[3], given[4]) if has_prefix else None
        with LargestTensor() as seen:
            out = attention._attend_by_formula(*given[:3], far, hidden(kind, rows=20), softcap)
            out.square().sum().backward()
        found.append([out, *(one.grad for one in given if one.grad is not None)])
        assert seen.numbers == max(20 * 4 * 6 * 8, (20 if limit == 2**26 else 2) * of_a_row)
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            torch.testing.assert_close(same, one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sharpness", [1.0, 4.0])
def test_in_bf16_no_way_errs_much_more_than_torchs_own(sharpness: float) -> None:
    """By its root mean square against fp64; a merge rounds the parts that it merges."""
    given = states(torch.bfloat16, rows=4, length=64, prefix=200)
    given[0] = (sharpness * given[0]).bfloat16()
    query, key, value, far_key, far_value = given
    mask = torch.cat([torch.zeros(64, 200, dtype=torch.bool), hidden("causal", length=64)[0, 0]], dim=1)
    keys, values = (
        torch.cat([far.expand(4, -1, -1, -1), own], dim=2)
        for far, own in ((far_key, key), (far_value, value))
    )

    def by_torch(*states: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(*states, attn_mask=~mask, scale=1.0, enable_gqa=True)

    exact = by_torch(*(one.double() for one in (query, keys, values)))
    # what rounding the result alone costs, as in a kernel that sums everything in fp32
    usual = (exact.bfloat16() - exact).square().mean().sqrt()
    future, far = hidden("causal", length=64), (far_key, far_value)
    with torch.inference_mode():
        ways = {
            "torch": by_torch(query, keys, values),
            "short": attention._attend_short(query, key, value, far),
            "merged": attention._attend_by_flash(query, key, value, far),
            "capped": attention._attend_by_formula(query, key, value, far, future, 1e6),
        }
    errors = {name: float((one - exact).square().mean().sqrt() / usual) for name, one in ways.items()}
    assert max(errors.values()) < 2 * errors["torch"], errors
