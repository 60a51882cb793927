"""The packed forward against the slow, obvious one: transformers' own model, one unpadded text at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from icl_embed.errors import ModelError
from icl_embed.examples import Example
from icl_embed.model.backbone import encode_prefix
from icl_embed.model.batching import Group
from icl_embed.model.embedder import Embedder
from icl_embed.model.packing import pack
from icl_embed.model.settings import EmbedderSettings
from tests.tiny_models import build_model

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2")
EXAMPLES = [Example("red cat", "blue dog"), Example("green fish </s>", "yellow bird")]
TEXTS = ["sun", "the big moon and the small star", "fire water earth wind " * 12, "moon"]
GROUPS = [
    Group([[5, 6, 7], [8], [9, 10, 11, 12, 13]], [20, 21, 22, 23]),
    Group([[30, 31], [32, 33, 34, 35, 36, 37, 38, 39]]),
    Group([[40]], [41]),
    Group([[7, 8, 9], list(range(5, 75)), [6]], [50, 51]),  # lengths too far apart for one segment
]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Embedder:
    return Embedder.load(folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def states_of(reference: Any, tokens: list[int], *, causal: bool = True) -> torch.Tensor:
    """Final states [L, D] of one text; every token sees all others if not causal."""
    ids = torch.tensor([tokens])
    mask = None if causal else torch.zeros(1, 1, len(tokens), len(tokens))
    mask = (
        mask
        if reference.config.model_type != "gemma2" or causal
        else {"full_attention": mask, "sliding_attention": mask}
    )
    return reference(input_ids=ids, attention_mask=mask).last_hidden_state[0].float()


def one_by_one(
    reference: Any, groups: list[Group], *, causal: bool = True, mean: bool = False
) -> torch.Tensor:
    """Unit vectors of every row with its prefix before it."""
    vectors = []
    for group in groups:
        for row in group.rows:
            states = states_of(reference, [*group.prefix, *row], causal=causal)[len(group.prefix) :]
            vectors.append(states.mean(dim=0) if mean else states[-1])
    return F.normalize(torch.stack(vectors), dim=-1)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_packed_groups_equal_one_forward_per_row(
    embedder: Embedder, reference: Any, attention: str, pooling: str
) -> None:
    settings = EmbedderSettings(attention=attention, pooling=pooling)
    one = Embedder(embedder.model, embedder.tokenizer, settings)
    with torch.no_grad():
        expected = one_by_one(reference, GROUPS, causal=attention == "causal", mean=pooling == "mean")
        assert (one.embed_groups(GROUPS) - expected).abs().max() < 1e-5


def test_a_packed_batch_has_no_padding_and_one_copy_of_each_prefix() -> None:
    packed = pack(GROUPS)
    assert len(packed.tokens) == sum(group.num_tokens for group in GROUPS) == 101
    rows = [
        packed.tokens[start : start + length].tolist()
        for start, length in zip(packed.starts, packed.lengths, strict=True)
    ]
    assert rows == [list(row) for group in GROUPS for row in group.rows]


def test_gradients_of_a_packed_batch_equal_those_of_one_forward_per_row(
    embedder: Embedder, reference: Any
) -> None:
    def gradient(model: Any, vectors: torch.Tensor) -> torch.Tensor:
        direction = torch.linspace(-1, 1, vectors.numel()).view_as(vectors)
        return torch.autograd.grad((vectors * direction).sum(), model.layers[0].self_attn.k_proj.weight)[0]

    packed = gradient(embedder.model, embedder.embed_groups(GROUPS))
    expected = gradient(reference, one_by_one(reference, GROUPS))
    assert torch.allclose(packed, expected, atol=1e-6)
    assert expected.abs().max() > 1e-4


def test_recomputed_activations_give_the_same_gradient(embedder: Embedder) -> None:
    weight = embedder.model.layers[0].self_attn.k_proj.weight

    def gradient() -> torch.Tensor:
        return torch.autograd.grad(embedder.embed_groups(GROUPS)[:, 0].sum(), weight)[0]

    plain = gradient()
    embedder.model.train()
    embedder.model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        assert torch.allclose(gradient(), plain, atol=1e-6)
    finally:
        embedder.model.gradient_checkpointing_disable()
        embedder.model.eval()


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_rows_continue_an_encoded_prefix(embedder: Embedder, reference: Any, pooling: str) -> None:
    one = Embedder(embedder.model, embedder.tokenizer, EmbedderSettings(pooling=pooling))
    prefix = one.prompts.prefix("find", EXAMPLES).tokens
    rows = one.prompts.query_tails("find", TEXTS)
    with torch.inference_mode():
        expected = one_by_one(reference, [Group(rows, prefix)], mean=pooling == "mean")
        found = one.embed_tokens(rows, encode_prefix(one.model, prefix))
    assert (found - expected).abs().max() < 1e-5


def test_few_shot_vectors_equal_the_full_forward(embedder: Embedder, reference: Any) -> None:
    prefix = embedder.prompts.prefix("find", EXAMPLES).tokens
    with torch.inference_mode():
        expected = one_by_one(reference, [Group(embedder.prompts.query_tails("find", TEXTS), prefix)])
    found = embedder.encode_queries(TEXTS, instruction="find", examples=EXAMPLES, batch_tokens=10_000)
    assert (torch.tensor(found) - expected).abs().max() < 1e-5


def test_vectors_do_not_depend_on_the_batch(embedder: Embedder, reference: Any) -> None:
    with torch.inference_mode():
        expected = one_by_one(reference, [Group(embedder.prompts.passages(TEXTS))])
    for batch_tokens in (1, 30, 10_000):
        found = embedder.encode_passages(TEXTS, batch_tokens=batch_tokens)
        assert (torch.tensor(found) - expected).abs().max() < 1e-5


def test_a_bidirectional_query_sees_its_examples(embedder: Embedder, reference: Any) -> None:
    both = Embedder(embedder.model, embedder.tokenizer, EmbedderSettings(attention="bidirectional"))
    prefix = both.prompts.prefix("find", EXAMPLES).tokens
    with torch.inference_mode():
        expected = one_by_one(
            reference, [Group(both.prompts.query_tails("find", TEXTS), prefix)], causal=False
        )
    found = both.encode_queries(TEXTS, instruction="find", examples=EXAMPLES)
    assert (torch.tensor(found) - expected).abs().max() < 1e-5


def test_a_model_called_without_a_layout_says_so(embedder: Embedder) -> None:
    with pytest.raises(ModelError, match="Embedder's methods"):
        embedder.model(input_ids=torch.tensor([[5, 6]]))
