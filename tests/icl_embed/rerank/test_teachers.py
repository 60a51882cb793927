"""Models that teach: our rerankers, causal language models, cross-encoders; and folders that may not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
)

from icl_embed.config import TeacherConfig
from icl_embed.errors import ModelError
from icl_embed.rerank.folder import SETTINGS_NAME, export_reranker
from icl_embed.rerank.reranker import Reranker
from icl_embed.rerank.teachers import load_teacher
from icl_embed.teacher.scoring import ScorePairs
from tests.icl_embed.rerank.conftest import PAIRS
from tests.tiny_models import build_tokenizer

HERE = {"device": "cpu", "dtype": "float32"}


def load(source: str, folder: Path) -> ScorePairs:
    config = TeacherConfig(source=source, folder=None if source == "own" else folder)
    return load_teacher(config, folder, max_tokens=96, **HERE)


def build_cross_encoder(folder: Path, *, labels: int = 1, plain: bool = False) -> Path:
    """A random BERT that scores pairs, or one without a head."""
    torch.manual_seed(0)
    build_tokenizer(folder)
    config = BertConfig(
        vocab_size=512, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=256, num_labels=labels, pad_token_id=0, type_vocab_size=2,
    )  # fmt: skip
    model = (BertModel if plain else BertForSequenceClassification)(config)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("source", ["own", "reranker"])
def test_a_reranker_of_ours_teaches_at_full_depth_without_compression(
    reranker: Reranker, tmp_path: Path, source: str
) -> None:
    export_reranker(reranker.model, reranker.tokenizer, reranker.settings, tmp_path)
    expected = reranker.score(PAIRS, cutoff_layer=4, compress_ratio=1)
    np.testing.assert_allclose(load(source, tmp_path)(PAIRS), expected, atol=1e-5)


def test_a_causal_language_model_teaches_by_the_logit_of_its_yes(folders: Callable[[str], Path]) -> None:
    folder = folders("llama")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    prompt = "Predict whether passage B contains an answer to query A."
    expected = []
    for query, passage in PAIRS:
        parts = ("A:", f" {query}", "\n", "B:", f" {passage}", "\n", prompt)
        tokens = [token for part in parts for token in tokenizer(part, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens])).logits[0, -1]
        expected.append(float(logits[tokenizer("Yes", add_special_tokens=False)["input_ids"][0]]))
    np.testing.assert_allclose(load("reranker", folder)(PAIRS), expected, atol=1e-5)
    with pytest.raises(ModelError, match=f"has no {SETTINGS_NAME}"):
        load("own", folder)


def test_a_cross_encoder_teaches_by_its_logits(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    folder = build_cross_encoder(tmp_path)
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        BertForSequenceClassification.from_pretrained(folder),
    )
    with torch.no_grad():
        expected = [
            model(**tokenizer(query, passage, return_tensors="pt")).logits[0, 0].item()
            for query, passage in PAIRS
        ]
    found = load("cross_encoder", folder)(PAIRS)
    np.testing.assert_allclose(found, expected, atol=1e-5)  # and not their sigmoid
    assert found.shape == (len(PAIRS),)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_folders_that_would_run_code_or_have_no_score_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ModelError, match="has no config.json"):
        load("cross_encoder", tmp_path / "missing")
    with pytest.raises(ModelError, match="is a BertModel without a score"):
        load("cross_encoder", build_cross_encoder(tmp_path / "encoder", plain=True))
    with pytest.raises(ModelError, match="sorts pairs into 3 classes"):
        load("cross_encoder", build_cross_encoder(tmp_path / "classes", labels=3))
    remote = build_cross_encoder(tmp_path / "remote")
    edit(remote / "config.json", auto_map={"AutoModel": "modeling.Evil"})
    with pytest.raises(ModelError, match="asks to run code of its own"):
        load("cross_encoder", remote)
    module = build_cross_encoder(tmp_path / "module")
    (module / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "os.system"}])
    )
    (module / "config_sentence_transformers.json").write_text(json.dumps({"model_type": "CrossEncoder"}))
    with pytest.raises(ModelError, match="run code of its own \\(os.system\\)"):
        load("cross_encoder", module)
    pickled = build_cross_encoder(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match="could run code when it is read"):
        load("cross_encoder", pickled)
    damaged = build_cross_encoder(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded as a cross-encoder"):
        load("cross_encoder", damaged)
