"""Texts in, vectors out: options, odd input, search."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from icl_embed.errors import ConfigError, DataError, ModelError
from icl_embed.examples import Example
from icl_embed.model.batching import ahead
from icl_embed.model.embedder import Embedder
from icl_embed.model.search import best_passages
from tests.tiny_models import build_model

EXAMPLES = [Example("red cat", "blue dog"), Example("green fish", "yellow bird")]
TEXTS = ["sun", "the big moon and the small star", "fire water earth wind " * 4]


@pytest.fixture(scope="module")
def embedder(tiny_model: Path) -> Embedder:
    return Embedder.load(tiny_model, device="cpu", dtype="float32")


def test_equal_texts_are_encoded_once_and_come_back_in_their_places(embedder: Embedder) -> None:
    many = [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[2], TEXTS[1]]
    found = embedder.encode_passages(many)
    assert np.array_equal(found, embedder.encode_passages(TEXTS)[[0, 1, 0, 2, 1]])
    started = time.perf_counter()
    embedder.encode_passages(TEXTS[2:] * 20_000)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("batch_tokens", [1, 7, 40, 10_000])
def test_vectors_do_not_depend_on_the_budget(embedder: Embedder, batch_tokens: int) -> None:
    task = embedder.compile_task("find", EXAMPLES)
    for encode in (
        embedder.encode_passages,
        lambda texts, **options: embedder.encode_queries(texts, task=task, **options),
    ):
        assert np.abs(encode(TEXTS, batch_tokens=batch_tokens) - encode(TEXTS)).max() < 1e-6


def test_truncated_vectors_are_the_first_dimensions_at_unit_length(embedder: Embedder) -> None:
    whole, short = embedder.encode_passages(TEXTS), embedder.encode_passages(TEXTS, truncate_dim=8)
    expected = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    assert np.abs(short - expected).max() < 1e-6
    assert np.array_equal(embedder.encode_passages(TEXTS, truncate_dim=32), whole)


def test_torch_output_is_the_same_numbers_and_can_be_trained_on(embedder: Embedder) -> None:
    found = embedder.encode_queries(TEXTS, instruction="find", output="torch")
    assert isinstance(found, torch.Tensor) and found.dtype == torch.float32
    assert np.array_equal(found.numpy(), embedder.encode_queries(TEXTS, instruction="find"))
    head = torch.nn.Linear(embedder.dimension, 2)
    head(found).sum().backward()
    assert head.weight.grad is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_tokens": 0}, "batch_tokens must be at least 1"),
        ({"truncate_dim": 0}, "truncate_dim must be from 1 to 32, found 0"),
        ({"truncate_dim": 33}, "truncate_dim must be from 1 to 32, found 33"),
        ({"output": "list"}, "output must be 'numpy' or 'torch'"),
    ],
)
def test_options_out_of_range_are_refused(embedder: Embedder, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        embedder.encode_passages(TEXTS, **options)


def test_an_unknown_option_is_refused(embedder: Embedder) -> None:
    with pytest.raises(TypeError, match="batch_size"):
        embedder.encode_passages(TEXTS, batch_size=3)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", None], r"texts\[1\] must be a text, found NoneType"),
        ([b"bytes"], r"texts\[0\] must be a text, found bytes"),
        (["a", "b", 3.0], r"texts\[2\] must be a text, found float"),
        ("one text", "expected a list of texts, found one text"),
    ],
)
def test_what_is_not_a_text_is_refused_by_its_place(embedder: Embedder, texts: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        embedder.encode_passages(texts)
    with pytest.raises(DataError, match=message):
        embedder.encode_queries(texts, instruction="find")


def test_no_texts_give_no_vectors(embedder: Embedder) -> None:
    assert embedder.encode_passages([]).shape == (0, 32)
    assert embedder.encode_queries([], instruction="find", truncate_dim=5).shape == (0, 5)
    assert embedder.encode_queries([], instruction="find", output="torch").shape == (0, 32)


def test_odd_texts_have_finite_unit_vectors(embedder: Embedder) -> None:
    odd = ["", " ", "\n", "\0", "\ud800", "a\udfffb", "</s>", "<s><pad></s>", "\u202e", "🜁" * 3]
    for found in (embedder.encode_passages(odd), embedder.encode_queries(odd, instruction="find")):
        assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5
    eos = embedder.tokenizer.eos_token_id
    assert all(row.count(eos) == 1 and row[-1] == eos for row in embedder.prompts.passages(odd))


def test_a_lone_surrogate_is_a_question_mark(embedder: Embedder) -> None:
    assert np.array_equal(*[embedder.encode_passages([text]) for text in ("a\ud800b", "a?b")])


def test_a_very_long_query_is_cut_and_quick(embedder: Embedder) -> None:
    started = time.perf_counter()
    long = embedder.encode_queries(["sun moon " * 11_200], instruction="find")
    assert time.perf_counter() - started < 2
    [tail] = embedder.prompts.query_tails("find", ["sun moon " * 11_200])
    assert len(embedder.prompts.bos + embedder.prompts.head("find") + tail) == 512
    assert np.abs(long - embedder.encode_queries(["sun moon " * 2_000], instruction="find")).max() < 1e-6


def test_a_model_without_eos_is_refused(tmp_path: Path) -> None:
    import json

    folder = build_model(tmp_path)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": None}))
    with pytest.raises(ModelError, match="no EOS token"):
        Embedder.load(folder, device="cpu", dtype="float32")


def test_the_first_text_that_has_no_finite_vector_is_named(tiny_model: Path) -> None:
    embedder = Embedder.load(tiny_model, device="cpu", dtype="float32")
    word = embedder.prompts.tokenize(["moon"])[0][0]
    with torch.no_grad():
        embedder.model.embed_tokens.weight[word] = float("nan")
    with pytest.raises(ModelError, match=r"text 3 is not finite \('moon'; 1 of 3 texts\)"):
        embedder.encode_passages(["sun", "sun", "star", "moon", "moon"])


def test_search_finds_what_the_scores_say(embedder: Embedder) -> None:
    passages = ["red cat", "blue dog", "green fish", "yellow bird", "red cat"]
    task = embedder.compile_task("find", EXAMPLES)
    found = embedder.search(TEXTS, passages, task=task, top_k=3)
    scores = embedder.encode_queries(TEXTS, task=task) @ embedder.encode_passages(passages).T
    assert np.array_equal(found.indices, np.argsort(-scores, axis=1, kind="stable")[:, :3])
    assert np.array_equal(found.scores, np.take_along_axis(scores, found.indices, axis=1))
    again = embedder.search(
        TEXTS, embedder.encode_passages(passages), instruction="find", examples=EXAMPLES, top_k=99
    )
    assert again.indices.shape == (3, 5)
    assert np.array_equal(again.indices[:, :3], found.indices)


def test_equal_scores_keep_the_order_of_the_passages() -> None:
    generator = np.random.default_rng(0)
    queries = generator.integers(-1, 2, (20, 3)).astype(np.float32)
    passages = generator.integers(-1, 2, (50, 3)).astype(np.float32)
    found = best_passages(queries, passages, top_k=7)
    assert np.array_equal(found.indices, np.argsort(-(queries @ passages.T), axis=1, kind="stable")[:, :7])


def test_search_without_passages_or_queries_is_empty_and_odd_input_is_refused(embedder: Embedder) -> None:
    assert embedder.search(["a"], [], instruction="find").indices.shape == (1, 0)
    assert embedder.search([], ["a"], instruction="find").indices.shape == (0, 1)
    with pytest.raises(ConfigError, match="top_k must be at least 1, found 0"):
        embedder.search(["a"], ["b"], instruction="find", top_k=0)
    with pytest.raises(ModelError, match="vectors of one length"):
        embedder.search(["a"], np.zeros((3, 5), np.float32), instruction="find")


def test_a_progress_bar_changes_nothing(embedder: Embedder, capsys: pytest.CaptureFixture[str]) -> None:
    assert np.array_equal(
        embedder.encode_passages(TEXTS, show_progress=True), embedder.encode_passages(TEXTS)
    )


def test_texts_that_are_tokenised_in_pieces_come_back_in_order(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import icl_embed.model.text_encoder

    texts = [f"sun {number} moon " * (number % 5 + 1) for number in range(50)]
    task = embedder.compile_task("find", EXAMPLES)
    expected = embedder.encode_queries(texts, task=task)
    monkeypatch.setattr(icl_embed.model.text_encoder, "TEXTS_AT_ONCE", 7)
    assert np.abs(embedder.encode_queries(texts, task=task, batch_tokens=60) - expected).max() < 1e-6


def test_the_next_piece_is_made_while_the_last_is_used() -> None:
    made = []
    results = ahead(lambda item: made.append(item) or item, range(5))
    assert next(results) == 0
    time.sleep(0.2)
    assert made == [0, 1]
    assert list(results) == [1, 2, 3, 4]
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 // item, [1, 0, 2]))
