"""What surrounds the GPU's kernel, with a slow kernel in its place: the merge, the backward pass, the plan."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from icl_embed.model import attention
from icl_embed.model.attention import attend
from icl_embed.model.batching import Group
from icl_embed.model.gpu import attention as kernel
from icl_embed.model.gpu.attention import Spans
from icl_embed.model.packing import Pack, PrefixStates, pack, plan_kernel

HEADS, KEY_HEADS, WIDTH = 4, 2, 8
GROUPS = {
    "no prefix": [Group([[1, 2, 3], [4], [5, 6]])],
    "prefixes and rows alone": [
        Group([[1, 2, 3], [4] * 9, [5, 6]], [7, 8, 9]),
        Group([[1, 2]]),
        Group([[1], [2, 3, 4]], [7, 8]),
    ],
}


def slow_forward(
    query: Tensor, key: Tensor, value: Tensor, queries: Spans, keys: Spans, *, causal: bool, scaling: float
) -> tuple[Tensor, Tensor]:
    out, lse = torch.empty_like(query), query.new_empty(query.shape[1], len(query))
    for mine, theirs in _pairs(queries, keys):
        scores, values = _scores(query[mine], key[theirs], value[theirs], causal, scaling)
        out[mine] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)
        lse[:, mine] = scores.logsumexp(-1)
    return out, lse


def slow_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, queries: Spans,
    keys: Spans, *, causal: bool, scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As the flash kernel does it: from the output and log-sum-exp that it is given, not its own."""
    grads = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
    for mine, theirs in _pairs(queries, keys):
        scores, values = _scores(query[mine], key[theirs], value[theirs], causal, scaling)
        shares = (scores - lse[:, mine, None]).exp()
        towards = torch.einsum("qhd,khd->hqk", grad[mine], values)
        mean = (grad[mine] * out[mine]).sum(-1).T[:, :, None]
        pull = shares * (towards - mean) * scaling
        groups = query.shape[1] // key.shape[1]
        grads[0][mine] += torch.einsum("hqk,khd->qhd", pull, key[theirs].repeat_interleave(groups, 1))
        for number, part in ((1, torch.einsum("hqk,qhd->khd", pull, query[mine])),
                             (2, torch.einsum("hqk,qhd->khd", shares, grad[mine]))):  # fmt: skip
            grads[number][theirs] += part.unflatten(1, (-1, groups)).sum(2)
    return grads


def _pairs(queries: Spans, keys: Spans) -> list[tuple[slice, slice]]:
    bounds = [
        [slice(*pair) for pair in zip(one.bounds, one.bounds[1:], strict=False)] for one in (queries, keys)
    ]
    return list(zip(*bounds, strict=True))


def _scores(query: Tensor, key: Tensor, value: Tensor, causal: bool, scaling: float) -> tuple[Tensor, Tensor]:
    groups = query.shape[1] // key.shape[1]
    scores = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(groups, 1)) * scaling
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[1:], dtype=torch.bool).triu(1), -torch.inf)
    return scores, value.repeat_interleave(groups, 1)


@pytest.fixture
def by_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "can_attend", lambda *_, **__: True)
    monkeypatch.setattr(kernel, "forward_kernel", slow_forward)
    monkeypatch.setattr(kernel, "backward_kernel", slow_backward)


def states(count: int, heads: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(1, heads, count, WIDTH, generator=generator, dtype=torch.float64)
    return drawn.requires_grad_()


def attended(packed: Pack, *, planned: bool) -> tuple[Tensor, list[Tensor]]:
    """The attention of random states, and the gradients of a random sum of it."""
    layout = packed.layout
    if planned:
        object.__setattr__(layout, "plan", plan_kernel(layout, None))
    own = [
        states(len(packed.tokens), heads, seed) for seed, heads in enumerate((HEADS, KEY_HEADS, KEY_HEADS))
    ]
    out, _ = attend(SimpleNamespace(layer_idx=0), *own, None, scaling=0.3, layout=layout)
    weights = states(out.numel(), 1, 9).detach().flatten()[: out.numel()]
    (out.flatten() * weights).sum().backward()
    return out.detach(), [one.grad for one in own if one.grad is not None]


@pytest.mark.parametrize("name", GROUPS)
def test_attention_and_gradients_are_those_of_the_formula(name: str, request: pytest.FixtureRequest) -> None:
    expected, expected_grads = attended(pack(GROUPS[name]), planned=False)
    request.getfixturevalue("by_kernel")
    found, grads = attended(pack(GROUPS[name]), planned=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # the formula takes softmax in fp32


def test_rows_continue_a_prefix_that_was_encoded_before(request: pytest.FixtureRequest) -> None:
    def found(*, planned: bool) -> Tensor:
        shared = PrefixStates(*([states(5, KEY_HEADS, seed).detach()] for seed in (5, 6)))
        return attended(pack([Group([[1, 2, 3], [4], [5, 6]])], shared=shared), planned=planned)[0]

    expected = found(planned=False)
    request.getfixturevalue("by_kernel")
    torch.testing.assert_close(found(planned=True), expected, rtol=1e-5, atol=1e-6)


def test_the_kernel_is_not_asked_for_what_it_cannot_do() -> None:
    assert not kernel.can_attend(torch.zeros(1, 1, 1, 8, dtype=torch.bfloat16), softcap=None)  # on CPU
