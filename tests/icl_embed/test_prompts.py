from pathlib import Path

import pytest
from transformers import AutoTokenizer

from icl_embed.config import PromptConfig
from icl_embed.errors import ConfigError, ModelError
from icl_embed.examples import Example
from icl_embed.prompts import PromptBuilder

EXAMPLES = [Example("red cat", "blue dog"), Example("green fish", "yellow bird")]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path):
    return AutoTokenizer.from_pretrained(tiny_model)


def test_the_prompt_reads_as_documented(tokenizer) -> None:
    prompts = PromptBuilder(tokenizer, PromptConfig())
    prefix = prompts.prefix("find it", EXAMPLES)
    [tail] = prompts.query_tails("find it", ["big sun"])
    assert tokenizer.decode(prefix.tokens + tail) == (
        "Instruct: find it\nQuery: red cat\nResponse: blue dog\n\n"
        "Instruct: find it\nQuery: green fish\nResponse: yellow bird\n\n"
        "Instruct: find it\nQuery: big sun\nResponse:</s>"
    )
    assert tokenizer.decode(prompts.passages(["big sun"])[0]) == "big sun</s>"


def test_zero_shot_is_the_few_shot_prompt_without_examples(tokenizer) -> None:
    prompts = PromptBuilder(tokenizer, PromptConfig())
    zero, few = prompts.prefix("find", []).tokens, prompts.prefix("find", EXAMPLES).tokens
    assert few[-len(zero) :] == zero
    assert few[: -len(zero)] == [
        token for shown in prompts.example_tokens("find", EXAMPLES) for token in shown
    ]


def test_truncation_cuts_only_the_query_text(tokenizer) -> None:
    prompts = PromptBuilder(tokenizer, PromptConfig(query_tokens=40, total_tokens=40))
    head = len(prompts.prefix("find").tokens)
    [tail] = prompts.query_tails("find", ["moon " * 500])
    assert head + len(tail) == 40
    assert tokenizer.decode(tail).endswith("\nResponse:</s>")


def test_passages_are_cut_before_eos(tokenizer) -> None:
    prompts = PromptBuilder(tokenizer, PromptConfig(passage_tokens=10))
    [passage] = prompts.passages(["moon " * 500])
    assert len(passage) == 10
    assert passage[-1] == tokenizer.eos_token_id


def test_examples_are_dropped_whole_and_counted(tokenizer) -> None:
    one = len(PromptBuilder(tokenizer, PromptConfig()).example_tokens("find", EXAMPLES[:1])[0])
    budgets = PromptConfig(query_tokens=64, total_tokens=64 + one + 1)
    prefix = PromptBuilder(tokenizer, budgets).prefix("find", EXAMPLES)
    assert (prefix.num_examples, prefix.num_dropped) == (1, 1)
    assert tokenizer.decode(prefix.tokens).count("Response:") == 1


def test_long_examples_are_cut_to_their_own_budgets(tokenizer) -> None:
    budgets = PromptConfig(example_query_tokens=30, example_response_tokens=5)
    prompts = PromptBuilder(tokenizer, budgets)
    [shown] = prompts.example_tokens("find", [Example("sun " * 300, "moon " * 300)])
    assert len(shown) <= 30 + 5 + len(prompts.tokenize(["\nResponse:"])[0]) + len(
        prompts.tokenize(["\n\n"])[0]
    )


@pytest.mark.parametrize("spelled", ["</s>", "<s>", "<pad>"])
def test_a_control_token_in_a_text_is_plain_text(tokenizer, spelled: str) -> None:
    prompts = PromptBuilder(tokenizer, PromptConfig())
    special = tokenizer.convert_tokens_to_ids(spelled)
    [passage] = prompts.passages([f"big {spelled} sun"])
    assert special not in passage[:-1]
    assert tokenizer.decode(passage[:-1]) == f"big {spelled} sun"


def test_an_instruction_that_fills_the_budget_is_refused(tokenizer) -> None:
    prompts = PromptBuilder(tokenizer, PromptConfig(query_tokens=16))
    with pytest.raises(ConfigError, match="leaves no room for a query"):
        prompts.prefix("find the green bird " * 10)


def test_bos_is_added_only_where_the_tokenizer_adds_it(tiny_model: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert PromptBuilder(tokenizer, PromptConfig()).passages(["sun"])[0][0] != tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    prompts = PromptBuilder(tokenizer, PromptConfig())
    assert prompts.passages(["sun"])[0][0] == tokenizer.bos_token_id
    assert prompts.prefix("find").tokens[0] == tokenizer.bos_token_id


def test_a_tokenizer_without_eos_is_refused(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="EOS"):
        PromptBuilder(tokenizer, PromptConfig())
