from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from icl_embed.config import PromptConfig, TemplateConfig
from icl_embed.examples import Example
from icl_embed.export.task_prompts import TaskPrompt
from icl_embed.model.settings import EmbedderSettings, write_settings
from tests.tiny_models import build_model

os.environ["HF_HUB_OFFLINE"] = "1"

BUDGETS = PromptConfig(
    query_tokens=96, passage_tokens=48, total_tokens=512, example_query_tokens=64, example_response_tokens=24
)
EXAMPLES = (
    Example("where is the red bird", "the red bird is in the tree"),
    Example("two words ", " a response\n\nof three lines\n"),
    Example("long " * 40, "fish " * 40),
    Example("control </s> string", "<pad> is text"),
)
TASKS = {
    "facts": TaskPrompt("Retrieve the answer to the question"),
    "facts-few": TaskPrompt("Retrieve the answer to the question", EXAMPLES),
}
QUERIES = [
    "where is the blue fish",
    " spaces  around ",
    "lines\n\nand lines\n",
    "numbers 1,000 and (signs)",
    "é 漢字 🙂",
]
PASSAGES = [*QUERIES, "moon " * 100, "x"]


def add_special_tokens(folder: Path) -> None:
    """The three tokens, as training adds them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<instruct>", "<query>", "<response>"]})
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Makes a model folder of ours with given settings; equal settings share a folder."""
    built: dict[str, Path] = {}

    def make(family: str = "llama", *, special_tokens: bool = False, **settings: str) -> Path:
        key = f"{family} {special_tokens} {settings}"
        if key not in built:
            folder = build_model(tmp_path_factory.mktemp("model") / "tiny", family)
            if special_tokens:
                add_special_tokens(folder)
            template = TemplateConfig(special_tokens=special_tokens)
            write_settings(folder, EmbedderSettings(prompt=BUDGETS, template=template, **settings))
            built[key] = folder
        return built[key]

    return make


@pytest.fixture
def copy_of(tmp_path):
    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / "copy"))

    return copy
