from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_embed.config import PromptConfig
from icl_embed.errors import ModelError
from icl_embed.examples import Example
from icl_embed.model.batching import plan_batches
from icl_embed.model.embedder import Embedder
from icl_embed.model.settings import EmbedderSettings, write_settings
from tests.tiny_models import build_model

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2")
EXAMPLES = [Example("red cat", "blue dog"), Example("green fish </s>", "yellow bird")]
TEXTS = ["sun", "the big moon and the small star", "fire water earth wind " * 4]


@pytest.fixture(scope="module", params=FAMILIES)
def embedder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    folder = build_model(tmp_path_factory.mktemp(request.param), request.param)
    return Embedder.load(folder, device="cpu", dtype="float32")


def test_examples_change_the_vector(embedder: Embedder) -> None:
    zero = embedder.encode_queries(TEXTS, instruction="find")
    few = embedder.encode_queries(TEXTS, instruction="find", examples=EXAMPLES)
    assert (np.abs(zero - few).max(axis=1) > 1e-4).all()


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


@given(lengths=st.lists(st.integers(1, 50), max_size=40), budget=st.integers(1, 400))
@settings(max_examples=100, deadline=None)
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = plan_batches(lengths, budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget


def test_a_prefix_beyond_the_sliding_window_is_refused(tmp_path: Path) -> None:
    folder = build_model(tmp_path, "mistral")
    embedder = Embedder.load(folder, device="cpu", dtype="float32")
    embedder.model.config.sliding_window = 32
    with pytest.raises(ModelError, match="only looks back 32"):
        embedder.encode_queries(TEXTS, instruction="find", examples=EXAMPLES)
