r"""Instruction + examples + query → token ids, and nothing else.

Strings (the paper's variant without special tokens, section 3.2)::

    Instruct: {instruction}\nQuery: {example query}\nResponse: {example response}\n\n      one example
    Instruct: {instruction}\nQuery: {query}\nResponse:<EOS>                                the query
    {passage}<EOS>                                                                         a passage

Every segment is tokenised on its own, so the tokens of a query never depend on its neighbours and the
tokens before it (the *prefix*) are the same for all queries of a task. EOS is appended here, not by a
tokenizer flag that some tokenizers ignore. Truncation cuts the query or passage text, never the instruction,
the suffix or EOS; an example that does not fit is dropped whole and counted. A text that spells a control
token is plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icl_embed.config import PromptConfig
from icl_embed.errors import ConfigError, ModelError
from icl_embed.examples import Example

HEAD = "Instruct: {instruction}\nQuery:"
SUFFIX = "\nResponse:"
SEPARATOR = "\n\n"

Tokens = list[int]


@dataclass(frozen=True)
class Prefix:
    """The tokens that all queries of a task share: BOS, examples, and the head of the query."""

    tokens: Tokens
    num_examples: int
    num_dropped: int


class PromptBuilder:
    """Builds the token ids of queries and passages for one tokenizer and one set of budgets."""

    def __init__(self, tokenizer: Any, budgets: PromptConfig) -> None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "the tokenizer has no EOS token; the embedding is pooled there, so one is needed"
            )
        self.tokenizer = tokenizer
        self.budgets = budgets
        self.eos: Tokens = [tokenizer.eos_token_id]
        self.bos: Tokens = _leading_bos(tokenizer)
        self._suffix = self.tokenize([SUFFIX])[0]
        self._separator = self.tokenize([SEPARATOR])[0]
        self._heads: dict[str, Tokens] = {}

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text alone: no special tokens are added, and none are recognised."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
        ids: list[Tokens] = encoded["input_ids"]
        return ids

    def head(self, instruction: str) -> Tokens:
        """Tokens of ``Instruct: … Query:``, computed once per instruction.

        Raises
            ConfigError: the instruction leaves no room for a query.
        """
        if instruction not in self._heads:
            tokens = self.tokenize([HEAD.format(instruction=instruction)])[0]
            if self._query_room(tokens) < 1:
                raise ConfigError(
                    f"the instruction takes {len(tokens)} tokens and leaves no room for a query within "
                    f"query_tokens={self.budgets.query_tokens}; shorten it or raise the budget"
                )
            self._heads[instruction] = tokens
        return self._heads[instruction]

    def _query_room(self, head: Tokens) -> int:
        fixed = len(self.bos) + len(head) + len(self._suffix) + len(self.eos)
        return self.budgets.query_tokens - fixed

    def prefix(self, instruction: str, examples: Sequence[Example] = ()) -> Prefix:
        """The shared prefix; examples are added in order until the next would overflow the budget.

        The budget for examples is what ``total_tokens`` leaves after a full-length query
        (paper section 4.1: 2048 - 512).
        """
        head = self.head(instruction)
        room = self.budgets.total_tokens - self.budgets.query_tokens
        tokens = list(self.bos)
        used = 0
        for shown in self.example_tokens(instruction, examples):
            if len(shown) > room:
                break
            tokens += shown
            room -= len(shown)
            used += 1
        return Prefix(tokens + head, used, len(examples) - used)

    def example_tokens(self, instruction: str, examples: Sequence[Example]) -> list[Tokens]:
        """Tokens of each example with its separator; its query and response are cut to their budgets."""
        head = self.head(instruction)
        query_room = max(1, self.budgets.example_query_tokens - len(head))
        queries = self.tokenize([" " + example.query for example in examples])
        responses = self.tokenize([" " + example.response for example in examples])
        return [
            head
            + query[:query_room]
            + self._suffix
            + response[: self.budgets.example_response_tokens]
            + self._separator
            for query, response in zip(queries, responses, strict=True)
        ]

    def query_tails(self, instruction: str, queries: Sequence[str]) -> list[Tokens]:
        """What follows the prefix for each query: the text, the suffix and EOS."""
        room = self._query_room(self.head(instruction))
        texts = self.tokenize([" " + query for query in queries])
        return [text[:room] + self._suffix + self.eos for text in texts]

    def passages(self, passages: Sequence[str]) -> list[Tokens]:
        """Tokens of each passage: the raw text and EOS, no prompt (paper section 4.5)."""
        room = self.budgets.passage_tokens - len(self.bos) - len(self.eos)
        return [self.bos + text[:room] + self.eos for text in self.tokenize(passages)]


def _leading_bos(tokenizer: Any) -> Tokens:
    """BOS if this tokenizer starts its own sequences with one (SmolLM2 and Qwen do not, Llama does)."""
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and ids and ids[0] == bos else []
