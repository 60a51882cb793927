"""From what a user calls a model to a name, a fingerprint and an encoder."""

import json
import shutil
import time

import numpy as np
import pytest

from icl_embed.config import PromptConfig
from icl_embed.errors import EvaluationError, ModelError
from icl_embed.evaluation.models import open_model
from icl_embed.examples import Example
from icl_embed.model.sentence_transformer import SentenceTransformerEncoder
from icl_embed.store import StageKey
from tests.tiny_models import build_sentence_transformer

PROMPT = PromptConfig(query_tokens=64, passage_tokens=64, total_tokens=256)


def find(reference, store, **more):
    return open_model(str(reference), store, prompt=PROMPT, device="cpu", **more)


def publish(store, folder, stage="embedder", seed=1, label="demo"):
    def produce(out):
        shutil.copytree(folder, out, dirs_exist_ok=True)
        return {}

    return store.build(StageKey(stage, 1, {"seed": seed}, label=label), produce)


@pytest.fixture(scope="module")
def sentence_transformer(tmp_path_factory, tiny_model):
    return build_sentence_transformer(tmp_path_factory.mktemp("st") / "mean-of-tiny", tiny_model)


def test_a_model_is_found_by_folder_reference_label_or_as_the_newest(store, tiny_model):
    first = publish(store, tiny_model)
    time.sleep(1.1)  # manifests are dated to the second
    second = publish(store, tiny_model, seed=2)
    assert find("", store).reference == second.reference
    assert find("demo", store).reference == second.reference
    assert find(first.reference, store).about.folder == first.path
    assert find(first.fingerprint[:6], store).about.name == f"demo-{first.fingerprint[:8]}"
    assert find(first.path, store).reference == first.reference
    by_folder = find(tiny_model, store, name="mine")
    assert (by_folder.about.name, by_folder.reference) == ("mine", "")
    assert by_folder.about.dtype == "float32"
    assert {one.about.fingerprint for one in (by_folder, find(first.path, store))} == {
        by_folder.about.fingerprint
    }


def test_what_is_not_a_model_is_refused_with_a_way_on(store, tiny_model, tmp_path):
    with pytest.raises(ModelError, match="holds no embedder; train one"):
        find("", store)
    with pytest.raises(ModelError, match="neither a folder nor an artefact"):
        find("intfloat/e5-base", store)
    pool = publish(store, tiny_model, stage="pool", label="a pool")
    with pytest.raises(ModelError, match="is no embedder or base-model"):
        find(pool.reference, store)
    with pytest.raises(ModelError, match="no \\*.safetensors"):
        find(tmp_path, store)


def test_the_fingerprint_is_of_the_content_without_budgets(store, tiny_model, tmp_path):
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    original = find(tiny_model, store).about.fingerprint
    assert find(copy, store).about.fingerprint == original
    (copy / "icl_embed.json").write_text(json.dumps({"prompt": {"query_tokens": 99}}))
    assert find(copy, store).about.fingerprint == original
    (copy / "icl_embed.json").write_text(json.dumps({"pooling": "mean"}))
    assert find(copy, store).about.fingerprint != original


def test_our_models_are_asked_with_the_runs_budgets(store, tiny_model):
    encoder = find(tiny_model, store).encoder
    assert encoder.prompts.budgets == PROMPT
    assert np.isfinite(encoder.encode_passages(["a cat"])).all()


def test_bm25_needs_no_folder_and_makes_no_vectors(store):
    bm25 = find("bm25", store)
    assert (bm25.sort, bm25.no_examples_because) == ("bm25", "BM25 takes no examples")
    with pytest.raises(ModelError, match="makes no vectors"):
        _ = bm25.encoder


def test_a_sentence_transformer_gives_its_own_vectors_and_takes_no_examples(store, sentence_transformer):
    import sentence_transformers

    model = find(sentence_transformer, store)
    assert (model.sort, model.prompt, model.about.name) == ("sentence-transformers", None, "mean-of-tiny")
    assert "takes no examples" in model.no_examples_because
    encoder, texts = model.encoder, ["a cat", "the moon", "a \ud800 lone surrogate"]
    plain = sentence_transformers.SentenceTransformer(str(sentence_transformer), device="cpu")
    expected = plain.encode(["ask: a cat", "ask: the moon"])
    assert np.allclose(encoder.encode_queries(texts, instruction="ignored")[:2], expected, atol=1e-5)
    assert np.allclose(encoder.encode_passages(texts)[:2], plain.encode(texts[:2]), atol=1e-5)
    assert encoder.encode_passages([]).shape == (0, encoder.dimension)
    with pytest.raises(EvaluationError, match="takes no examples"):
        encoder.encode_queries(texts, instruction="x", examples=[Example("a", "b")])


def test_weights_that_could_run_code_are_refused(store, sentence_transformer, tmp_path):
    copy = shutil.copytree(sentence_transformer, tmp_path / "pickled")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="could run code when it is read"):
        SentenceTransformerEncoder.load(copy, device="cpu")


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelError, match="pip install sentence-transformers"):
        SentenceTransformerEncoder.load(tmp_path, device="cpu")


def test_another_sentence_transformer_has_another_fingerprint(store, sentence_transformer, tmp_path):
    copy = shutil.copytree(sentence_transformer, tmp_path / "copy")
    before = find(copy, store).about.fingerprint
    assert before == find(sentence_transformer, store).about.fingerprint
    settings = json.loads((copy / "config_sentence_transformers.json").read_text())
    settings["prompts"]["query"] = "other: "
    (copy / "config_sentence_transformers.json").write_text(json.dumps(settings))
    assert find(copy, store).about.fingerprint != before
