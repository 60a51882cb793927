"""The adapter alone, and what a transformers config cannot say."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from icl_embed.cli.export import base_of
from icl_embed.config import LoraConfig
from icl_embed.errors import ConfigError, ModelError
from icl_embed.export.folder import write_model
from icl_embed.model.embedder import Embedder
from icl_embed.model.lora import ADAPTER_FOLDER, attach, merge, save_adapter
from icl_embed.model.settings import EmbedderSettings, write_settings
from tests.icl_embed.export.conftest import BUDGETS, PASSAGES, QUERIES, TASKS


def train_a_little(base, folder):
    """A folder as training leaves it: merged weights, and the adapter beside them."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = attach(AutoModel.from_pretrained(base, dtype=torch.float32), LoraConfig(rank=4), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    save_adapter(model, folder / ADAPTER_FOLDER)
    merge(model).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    write_settings(folder, EmbedderSettings(prompt=BUDGETS))
    return folder


def test_the_adapter_over_its_base_gives_the_merged_vectors(tiny_model, tmp_path):
    from sentence_transformers import SentenceTransformer

    base = tiny_model()
    trained = train_a_little(base, tmp_path / "trained")
    (tmp_path / "out").mkdir()
    write_model(trained, tmp_path / "out", TASKS, adapter_of=str(base))
    assert not (tmp_path / "out" / "model.safetensors").exists()
    ours = Embedder.load(trained, device="cpu", dtype="float32")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    close = {"rtol": 0, "atol": 1e-5}
    np.testing.assert_allclose(theirs.encode_document(PASSAGES), ours.encode_passages(PASSAGES), **close)
    expected = ours.encode_queries(QUERIES, instruction=TASKS["facts"].instruction)
    np.testing.assert_allclose(theirs.encode_query(QUERIES, prompt_name="facts"), expected, **close)
    untrained = Embedder.load(base, device="cpu", dtype="float32").encode_passages(PASSAGES)
    assert np.abs(untrained - ours.encode_passages(PASSAGES)).max() > 1e-2


def test_a_kept_adapter_names_no_path_and_equal_adapters_are_equal_bytes(tiny_model, tmp_path):
    first, second = (
        train_a_little(tiny_model(), tmp_path / name) / ADAPTER_FOLDER for name in ("one", "two")
    )
    config = json.loads((first / "adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] is None
    assert config["r"] == 4
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_an_adapter_is_refused_where_it_would_not_be_enough(tiny_model, tmp_path):
    with pytest.raises(ModelError, match="holds no adapter"):
        write_model(tiny_model(), tmp_path, adapter_of="base")
    trained = train_a_little(tiny_model(), tmp_path / "trained")
    write_settings(trained, EmbedderSettings(attention="bidirectional"))
    with pytest.raises(ModelError, match="cannot change that"):
        write_model(trained, tmp_path, adapter_of="base")
    with pytest.raises(ConfigError, match="--base"):
        base_of("", None)
    assert base_of("me/model", None) == "me/model"


def changed(source, folder, **config):
    shutil.copytree(source, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def test_bidirectional_attention_is_refused_behind_a_short_window(tiny_model, tmp_path):
    source = tiny_model("mistral", attention="bidirectional")
    narrow = changed(source, tmp_path / "narrow", sliding_window=64)
    with pytest.raises(ModelError, match="sliding window of 64"):
        write_model(narrow, tmp_path)
    (tmp_path / "out").mkdir()
    wide = changed(source, tmp_path / "wide", sliding_window=4096)
    write_model(wide, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["is_causal"] is False


def test_bidirectional_attention_is_refused_where_transformers_ignores_it(tiny_model, tmp_path):
    source = changed(tiny_model(attention="bidirectional"), tmp_path / "model", model_type="mamba")
    with pytest.raises(ModelError, match="ignores is_causal"):
        write_model(source, tmp_path)


def test_only_safetensors_are_exported(tiny_model, tmp_path):
    source = changed(tiny_model(), tmp_path / "model")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only safetensors"):
        write_model(source, tmp_path)
