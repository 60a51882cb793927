"""Models of others: a folder as FlagEmbedding saves it, with a byte-level or a SentencePiece-like tokenizer."""

from __future__ import annotations

import json

import numpy as np
import pytest

from icl_embed.config import PromptConfig, TemplateConfig
from icl_embed.errors import ModelError
from icl_embed.examples import Example
from icl_embed.model.embedder import Embedder
from icl_embed.model.settings import EmbedderSettings, read_settings
from icl_embed.prompts import PromptBuilder
from tests.published_models import build_published

EXAMPLES = [Example("where is the red bird", "in the tree"), Example("two\nlines", "one answer")]


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece"])
def published(request, tmp_path_factory):
    return build_published(tmp_path_factory.mktemp("published") / "model", request.param)


def test_the_settings_are_told_from_the_tokenizer(published):
    assert read_settings(published) == EmbedderSettings(template=TemplateConfig(special_tokens=True))


@pytest.mark.parametrize("examples", [[], EXAMPLES], ids=["zero-shot", "few-shot"])
def test_token_ids_are_those_of_the_whole_string(published, examples):
    embedder = Embedder.load(published, device="cpu", dtype="float32")
    shown = "".join(
        f"<instruct>Find it\n<query>{one.query}\n<response>{one.response}\n\n" for one in examples
    )
    query = "what is two and three"
    whole = embedder.tokenizer(f"{shown}<instruct>Find it\n<query>{query}\n<response>")["input_ids"]
    ours = (
        embedder.prompts.prefix("Find it", examples).tokens
        + embedder.prompts.query_tails("Find it", [query])[0]
    )
    assert ours == whole
    assert embedder.prompts.passages([query])[0] == embedder.tokenizer(query)["input_ids"]


def test_it_embeds(published):
    embedder = Embedder.load(published, device="cpu", dtype="float32")
    few = embedder.encode_queries(["a query"], instruction="Find it", examples=EXAMPLES)
    zero = embedder.encode_queries(["a query"], instruction="Find it")
    assert np.abs(few - zero).max() > 1e-3
    assert np.linalg.norm(few) == pytest.approx(1, abs=1e-5)


def test_plain_words_of_a_sentencepiece_tokenizer_have_single_spaces(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(build_published(tmp_path / "model", "sentencepiece"))
    builder = PromptBuilder(tokenizer, PromptConfig(), TemplateConfig())
    ours = builder.prefix("Find it").tokens + builder.query_tails("Find it", ["the cat"])[0]
    assert ours == tokenizer("Instruct: Find it\nQuery: the cat\nResponse:")["input_ids"]


@pytest.mark.parametrize("missing", ["<instruct>", "<query>", "<response>"])
def test_a_tokenizer_without_all_three_tokens_gets_the_plain_template(tmp_path, missing):
    others = [{"content": token} for token in ("<instruct>", "<query>", "<response>") if token != missing]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": others}))
    assert read_settings(tmp_path) == EmbedderSettings()


def test_a_damaged_tokenizer_file_is_refused(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        read_settings(tmp_path)
