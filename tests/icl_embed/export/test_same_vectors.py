"""The point of an export: other libraries give the vectors that we give, to 1e-5 in fp32."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from icl_embed.examples import Example
from icl_embed.export.folder import write_model
from icl_embed.export.task_prompts import TaskPrompt
from icl_embed.model.embedder import Embedder
from tests.icl_embed.export.conftest import PASSAGES, QUERIES, TASKS
from tests.published_models import build_published

CASES = [
    ("llama", {}),
    ("llama", {"special_tokens": True}),
    ("llama", {"attention": "bidirectional"}),
    ("llama", {"pooling": "mean"}),
    ("llama", {"pooling": "mean", "special_tokens": True, "attention": "bidirectional"}),
    ("qwen3", {"attention": "bidirectional"}),
    ("mistral", {"special_tokens": True}),
    ("gemma2", {"pooling": "last"}),
]


def close(left, right) -> None:
    np.testing.assert_allclose(np.asarray(left), np.asarray(right), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("family", "settings"), CASES, ids=str)
def test_sentence_transformers_gives_our_vectors(tiny_model, tmp_path, family, settings):
    from sentence_transformers import SentenceTransformer

    source = tiny_model(family, **settings)
    exported = write_model(source, tmp_path, TASKS)
    ours = Embedder.load(source, device="cpu", dtype="float32")
    theirs = SentenceTransformer(str(tmp_path), device="cpu")

    close(theirs.encode_document(PASSAGES), ours.encode_passages(PASSAGES))
    for name, task in TASKS.items():
        queries = QUERIES
        if exported.settings.pooling == "mean":  # the suffix is the caller's, as the card says
            text = exported.text
            queries = [f"{text.space}{query}{text.marked_suffix}" for query in QUERIES]
        expected = ours.encode_queries(QUERIES, instruction=task.instruction, examples=task.examples)
        close(theirs.encode_query(queries, prompt_name=name), expected)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_plain_transformers_gives_our_vectors_with_padding_on_either_side(tiny_model, tmp_path, padding_side):
    from transformers import AutoModel, AutoTokenizer

    source = tiny_model()
    exported = write_model(source, tmp_path, TASKS)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, padding_side=padding_side)
    model = AutoModel.from_pretrained(tmp_path)
    task = TASKS["facts-few"]
    prefix = exported.text.prefix(task.instruction, task.examples)
    batch = tokenizer(
        [exported.text.query(prefix, query) for query in QUERIES], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    last = (batch["attention_mask"] * torch.arange(states.shape[1])).argmax(dim=1)
    vectors = torch.nn.functional.normalize(states[torch.arange(len(states)), last], dim=-1)

    ours = Embedder.load(source, device="cpu", dtype="float32")
    close(vectors, ours.encode_queries(QUERIES, instruction=task.instruction, examples=task.examples))


@pytest.mark.parametrize("settings", [{}, {"special_tokens": True}, {"attention": "bidirectional"}], ids=str)
def test_our_embedder_reads_its_own_export(tiny_model, tmp_path, settings):
    source = tiny_model(**settings)
    write_model(source, tmp_path, TASKS)
    before, after = (Embedder.load(folder, device="cpu", dtype="float32") for folder in (source, tmp_path))
    task = TASKS["facts-few"]
    for embedder in (before, after):
        assert embedder.settings == before.settings
    close(after.encode_passages(PASSAGES), before.encode_passages(PASSAGES))
    few = [
        one.encode_queries(QUERIES, instruction=task.instruction, examples=task.examples)
        for one in (before, after)
    ]
    close(*few)


def test_a_text_that_spells_eos_stays_a_text(tiny_model, tmp_path):
    from sentence_transformers import SentenceTransformer

    write_model(tiny_model(), tmp_path, TASKS)
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    ids = theirs.preprocess(["the end </s> of it"], prompt=theirs.prompts["facts"])["input_ids"][0].tolist()
    eos = theirs.tokenizer.eos_token_id
    assert ids.count(eos) == 1
    assert ids[-1] == eos


def test_truncation_never_cuts_the_suffix(tiny_model, tmp_path):
    from sentence_transformers import SentenceTransformer

    write_model(tiny_model(), tmp_path, TASKS)
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    short, long = (
        theirs.preprocess([text], prompt=theirs.prompts["facts"], task="query")["input_ids"][0].tolist()
        for text in ("word", "word " * 3000)
    )
    assert len(long) == 512
    suffix = theirs.tokenizer("\nResponse:")["input_ids"]
    assert long[-len(suffix) :] == short[-len(suffix) :] == suffix


def test_where_transformers_rebuilds_the_tokenizer_the_differences_are_counted(tiny_model, tmp_path):
    from sentence_transformers import SentenceTransformer

    calm = TaskPrompt("Retrieve the answer", (Example("where is the red bird", "in the tree"),))
    exported = write_model(tiny_model("qwen2"), tmp_path, {"calm": calm, "awkward": TASKS["facts-few"]})
    assert exported.text.mark == ""
    assert exported.differences["awkward"] > exported.differences["calm"]
    assert exported.differences["passages"] == 0
    ours = Embedder.load(tiny_model("qwen2"), device="cpu", dtype="float32")
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    expected = ours.encode_queries(QUERIES[:1], instruction=calm.instruction, examples=calm.examples)
    close(theirs.encode_query(QUERIES[:1], prompt_name="calm"), expected)


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma2"])
def test_marks_make_the_tokens_of_whole_prompts_ours(tiny_model, tmp_path, family):
    exported = write_model(tiny_model(family), tmp_path, {"calm": TASKS["facts"]})
    assert exported.text.mark
    assert exported.differences == {"passages": 0, "calm": 0}


@pytest.mark.parametrize("tokenizer", ["byte-level", "sentencepiece"])
def test_a_published_model_is_exported_with_its_vectors(tmp_path, tokenizer):
    from sentence_transformers import SentenceTransformer

    source = build_published(tmp_path / "source", tokenizer)
    (tmp_path / "out").mkdir()
    calm = TaskPrompt("Find it", (Example("where is the red bird", "in the tree"),))
    exported = write_model(source, tmp_path / "out", {"calm": calm})
    assert exported.differences == {"passages": 0, "calm": 0}
    ours = Embedder.load(source, device="cpu", dtype="float32")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    expected = ours.encode_queries(QUERIES, instruction=calm.instruction, examples=calm.examples)
    close(theirs.encode_query(QUERIES, prompt_name="calm"), expected)
    close(theirs.encode_document(PASSAGES), ours.encode_passages(PASSAGES))


@pytest.mark.parametrize("special_tokens", [False, True])
def test_tokenizer_json_alone_makes_our_tokens_as_servers_in_rust_read_it(
    tiny_model, tmp_path, special_tokens
):
    from tokenizers import Tokenizer

    exported = write_model(tiny_model(special_tokens=special_tokens), tmp_path, TASKS)
    task, text, builder = TASKS["facts-few"], exported.text, exported.text.builder
    server = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    prompts = json.loads((tmp_path / "config_sentence_transformers.json").read_bytes())["prompts"]
    prefix = builder.prefix(task.instruction, task.examples[:2]).tokens
    shown = text.prefix(task.instruction, task.examples[:2])
    for query, tail in zip(QUERIES, builder.query_tails(task.instruction, QUERIES), strict=True):
        assert server.encode(shown + query + text.marked_suffix).ids == prefix + tail
    zero = builder.prefix(task.instruction).tokens + builder.query_tails(task.instruction, QUERIES[:1])[0]
    assert server.encode(prompts["facts"] + QUERIES[0] + text.marked_suffix).ids == zero
    assert server.encode(QUERIES[0]).ids == builder.passages(QUERIES[:1])[0]
