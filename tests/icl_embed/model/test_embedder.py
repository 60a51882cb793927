from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_embed.config import PromptConfig
from icl_embed.errors import ModelError
from icl_embed.examples import Example
from icl_embed.model.batching import pad_right, plan_batches
from icl_embed.model.embedder import Embedder
from icl_embed.model.pooling import pool
from icl_embed.model.settings import EmbedderSettings, write_settings
from icl_embed.model.shared_prefix import encode_prefix
from tests.tiny_models import build_model

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2")
EXAMPLES = [Example("red cat", "blue dog"), Example("green fish </s>", "yellow bird")]
TEXTS = ["sun", "the big moon and the small star", "fire water earth wind " * 4]


@pytest.fixture(scope="module", params=FAMILIES)
def embedder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    folder = build_model(tmp_path_factory.mktemp(request.param), request.param)
    return Embedder.load(folder, device="cpu", dtype="float32")


def one_by_one(embedder: Embedder, sequences: list[list[int]]) -> np.ndarray:
    """The slow, obvious way: one unpadded forward per text, the state at the last token, normalised."""
    rows = []
    for sequence in sequences:
        with torch.inference_mode():
            states = embedder.model(input_ids=torch.tensor([sequence])).last_hidden_state
        rows.append(F.normalize(states[0, -1].float(), dim=-1).numpy())
    return np.stack(rows)


def test_few_shot_vectors_equal_the_full_forward(embedder: Embedder) -> None:
    prefix = embedder.prompts.prefix("find", EXAMPLES).tokens
    tails = embedder.prompts.query_tails("find", TEXTS)
    expected = one_by_one(embedder, [prefix + tail for tail in tails])
    found = embedder.encode_queries(TEXTS, instruction="find", examples=EXAMPLES, batch_tokens=10_000)
    assert np.abs(found - expected).max() < 1e-5


def test_vectors_do_not_depend_on_the_batch(embedder: Embedder) -> None:
    whole = embedder.encode_passages(TEXTS, batch_tokens=10_000)
    single = embedder.encode_passages(TEXTS, batch_tokens=1)
    expected = one_by_one(embedder, embedder.prompts.passages(TEXTS))
    assert np.abs(whole - expected).max() < 1e-5
    assert np.abs(single - expected).max() < 1e-5


def test_examples_change_the_vector(embedder: Embedder) -> None:
    zero = embedder.encode_queries(TEXTS, instruction="find")
    few = embedder.encode_queries(TEXTS, instruction="find", examples=EXAMPLES)
    assert (np.abs(zero - few).max(axis=1) > 1e-4).all()


def test_bidirectional_vectors_do_not_depend_on_padding_and_differ_from_causal(embedder: Embedder) -> None:
    both = Embedder(embedder.model, embedder.tokenizer, EmbedderSettings(attention="bidirectional"))
    together = both.encode_queries(TEXTS, instruction="find", examples=EXAMPLES)
    alone = [both.encode_queries([text], instruction="find", examples=EXAMPLES)[0] for text in TEXTS]
    causal = embedder.encode_queries(TEXTS, instruction="find", examples=EXAMPLES)
    assert np.abs(together - np.stack(alone)).max() < 1e-5
    assert np.abs(together - causal).max() > 1e-3


def test_mean_pooling_averages_the_whole_prompt(embedder: Embedder) -> None:
    mean = Embedder(embedder.model, embedder.tokenizer, EmbedderSettings(pooling="mean"))
    found = mean.encode_queries(TEXTS, instruction="find", examples=EXAMPLES, batch_tokens=10_000)
    prefix = mean.prompts.prefix("find", EXAMPLES).tokens
    for text, vector in zip(TEXTS, found, strict=True):
        [tail] = mean.prompts.query_tails("find", [text])
        with torch.inference_mode():
            states = mean.model(input_ids=torch.tensor([prefix + tail])).last_hidden_state[0].float()
        assert np.abs(F.normalize(states.mean(dim=0), dim=-1).numpy() - vector).max() < 1e-5


def test_gradients_flow_through_a_shared_prefix(embedder: Embedder) -> None:
    prefix = embedder.prompts.prefix("find", EXAMPLES).tokens
    tails = embedder.prompts.query_tails("find", TEXTS)
    weight = embedder.model.layers[0].self_attn.k_proj.weight

    def gradient(vectors: torch.Tensor) -> torch.Tensor:
        direction = torch.linspace(-1, 1, vectors.numel()).view_as(vectors)
        return torch.autograd.grad((vectors * direction).sum(), weight)[0]

    shared = gradient(embedder.embed_tokens(tails, encode_prefix(embedder.model, prefix)))
    full = gradient(embedder.embed_tokens([prefix + tail for tail in tails]))
    assert torch.allclose(shared, full, atol=1e-6)
    assert full.abs().max() > 1e-4


def test_a_vector_that_is_not_finite_is_refused(tiny_model: Path) -> None:
    embedder = Embedder.load(tiny_model, device="cpu", dtype="float32")
    with torch.no_grad():
        embedder.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="text 0 is not finite"):
        embedder.encode_passages(TEXTS)


def test_no_texts_give_no_vectors(tiny_model: Path) -> None:
    embedder = Embedder.load(tiny_model, device="cpu", dtype="float32")
    assert embedder.encode_passages([]).shape == (0, embedder.dimension)
    assert embedder.encode_queries([], instruction="find").shape == (0, embedder.dimension)


def test_saved_settings_are_used(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    wanted = EmbedderSettings(pooling="mean", prompt=PromptConfig(passage_tokens=7))
    write_settings(folder, wanted)
    assert Embedder.load(folder, device="cpu", dtype="float32").settings == wanted
    (folder / "icl_embed.json").write_text('{"pooling": "max"}')
    with pytest.raises(ModelError, match="icl_embed.json"):
        Embedder.load(folder, device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("tokenizer.json", "no tokenizer"),
        ("config.json", r"no config\.json"),
        ("model.safetensors", "cannot load"),
    ],
)
def test_an_incomplete_folder_is_refused(
    tiny_model: Path, tmp_path: Path, missing: str, message: str
) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=message):
        Embedder.load(folder, device="cpu", dtype="float32")


def test_a_folder_that_asks_for_remote_code_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    import json
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="auto_map"):
        Embedder.load(folder, device="cpu", dtype="float32")


@given(
    lengths=st.lists(st.integers(1, 50), max_size=40), budget=st.integers(1, 400), extra=st.integers(0, 60)
)
@settings(max_examples=100, deadline=None)
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int, extra: int) -> None:
    batches = plan_batches(lengths, budget, extra_tokens=extra)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or len(batch) * (longest + extra) <= budget


def test_pooling_takes_the_last_real_token_or_the_mean_of_the_real_ones() -> None:
    tokens, lengths = pad_right([[5, 6, 7], [8]], pad=0)
    assert tokens.tolist() == [[5, 6, 7], [8, 0, 0]]
    states = torch.arange(2 * 3 * 2, dtype=torch.float32).view(2, 3, 2)
    last = torch.stack([states[0, 2], states[1, 0]])
    mean = torch.stack([states[0].mean(dim=0), states[1, 0]])
    assert torch.allclose(pool(states, lengths, "last"), F.normalize(last, dim=-1))
    assert torch.allclose(pool(states, lengths, "mean"), F.normalize(mean, dim=-1))


def test_a_prefix_beyond_the_sliding_window_is_refused(tmp_path: Path) -> None:
    folder = build_model(tmp_path, "mistral")
    embedder = Embedder.load(folder, device="cpu", dtype="float32")
    embedder.model.config.sliding_window = 32
    with pytest.raises(ModelError, match="only looks back 32"):
        embedder.encode_queries(TEXTS, instruction="find", examples=EXAMPLES)
