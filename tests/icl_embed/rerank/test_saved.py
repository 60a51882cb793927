"""A reranker folder is whole and of one piece, or it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from icl_embed.config import RerankConfig
from icl_embed.errors import ModelError
from icl_embed.rerank.folder import HEADS_NAME, SETTINGS_NAME, export_reranker, start_from
from icl_embed.rerank.reranker import Reranker
from tests.tiny_models import build_model


@pytest.fixture
def folder(reranker: Reranker, tmp_path: Path) -> Path:
    export_reranker(reranker.model, reranker.tokenizer, reranker.settings, tmp_path / "reranker")
    return tmp_path / "reranker"


def load(folder: Path) -> Reranker:
    return Reranker.load(folder, device="cpu", dtype="float32")


def test_the_folder_is_safetensors_and_json_and_plain_transformers_reads_it(
    reranker: Reranker, folder: Path
) -> None:
    assert {path.suffix for path in folder.iterdir()} <= {".safetensors", ".json", ".jinja"}
    decoder, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    head = load_file(folder / HEADS_NAME)["layer_4"]
    parts = ("A:", " the red cat", "\n", "B:", " a dog in water", "\n", reranker.settings.prompt)
    tokens = [token for part in parts for token in tokenizer(part, add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        state = decoder(input_ids=torch.tensor([tokens])).last_hidden_state[0, -1]
    expected = reranker.score([("the red cat", "a dog in water")])[0]
    assert float(state @ head) == pytest.approx(float(expected), abs=1e-5)


def test_a_weight_that_is_missing_is_not_replaced_by_a_random_one(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks layers\.1\.mlp\.up_proj\.weight"):
        load(folder)


def test_damaged_or_pickled_weights_are_refused(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for broken in (whole[:-100], b"", whole[:5]):
        (folder / "model.safetensors").write_bytes(broken)
        with pytest.raises(ModelError, match="cannot load the model"):
            load(folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot load the model"):
        load(folder)


def test_heads_of_another_reranker_are_refused(
    make_reranker: Callable[..., Reranker], folder: Path, tmp_path: Path
) -> None:
    other = make_reranker()
    with torch.no_grad():
        other.model.heads.by_layer["1"].add_(1.0)
    export_reranker(other.model, other.tokenizer, other.settings, tmp_path / "other")
    load(tmp_path / "other")
    (folder / HEADS_NAME).write_bytes((tmp_path / "other" / HEADS_NAME).read_bytes())
    with pytest.raises(ModelError, match="is not the file that was saved with icl_rerank.json"):
        load(folder)


def test_heads_that_are_not_finite_are_refused(reranker: Reranker, tmp_path: Path) -> None:
    with torch.no_grad():
        reranker.model.heads.by_layer["2"][0] = torch.nan
    export_reranker(reranker.model, reranker.tokenizer, reranker.settings, tmp_path)
    with pytest.raises(ModelError, match="not finite"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compress_layers": [2, 9]}, "does not fit the model beside it"),
        ({"compress_layers": [-1]}, "is not valid"),
        ({"head_layers": []}, "is not valid"),
        ({"head_layers": [1, 2, 3]}, "expected heads"),
        ({"max_tokens": 0}, "is not valid"),
        ({"code": "import os"}, "is not valid"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder: Path, changes: dict[str, object], message: str) -> None:
    path = folder / SETTINGS_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_the_prompt_is_one_of_the_papers_or_any_sentence(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    paper = "Predict whether queries A and B are asking the same thing."
    for prompt, sentence in (("question", paper), ("Does B answer A?", "Does B answer A?")):
        config = RerankConfig(start_layer=2, compress_layers=(1,), max_tokens=96, prompt=prompt)
        model, tokenizer, settings = start_from(
            folders("llama"), config, device=torch.device("cpu"), dtype=torch.float32
        )
        export_reranker(model, tokenizer, settings, tmp_path / prompt.split()[0])
        loaded = load(tmp_path / prompt.split()[0])
        assert loaded.settings.prompt == sentence
        assert tokenizer.decode(loaded.pairs.pairs([("a", "b")])[0].after) == f"\n{sentence}"
    with pytest.raises(ValidationError, match="expected a sentence, or one of answer, meaning"):
        RerankConfig(prompt="qestion")


def test_a_reranker_of_the_first_layers_scores_as_the_whole_one_does_at_that_exit(tmp_path: Path) -> None:
    base, pairs = build_model(tmp_path / "base", layers=4), [("a red cat", "the cat"), ("a dog", "two fish")]

    def start(**more: int) -> Reranker:
        config = RerankConfig(start_layer=2, layer_step=1, compress_layers=(1,), max_tokens=96, **more)
        return Reranker(*start_from(base, config, device=torch.device("cpu"), dtype=torch.float32))

    whole, cut = start(), start(num_layers=2)
    assert cut.settings.head_layers == (2,)
    np.testing.assert_allclose(cut.score(pairs), whole.score(pairs, cutoff_layer=2), atol=1e-5)
    with pytest.raises(ModelError, match="num_layers is 9"):
        start(num_layers=9)
