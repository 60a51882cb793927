import pytest

from icl_embed.config import PromptConfig
from icl_embed.prompts import PromptBuilder
from tests.icl_embed.evaluation.folders import HashEncoder
from tests.tiny_models import build_tokenizer


@pytest.fixture(scope="session")
def prompts(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(folder)
    return PromptBuilder(AutoTokenizer.from_pretrained(folder), PromptConfig())


@pytest.fixture
def encoder(prompts):
    return HashEncoder(prompts)
