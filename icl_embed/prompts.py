r"""Instruction + examples + query → token ids, and nothing else.

Strings (paper section 3.2), in plain words or with the paper's special tokens::

    Instruct: {instruction}\nQuery: {query}\nResponse: {response}\n\n       one example
    Instruct: {instruction}\nQuery: {query}\nResponse:<EOS>                 the query
    <instruct>{instruction}\n<query>{query}\n<response>{response}\n\n      one example
    <instruct>{instruction}\n<query>{query}\n<response><EOS>                the query
    {passage}<EOS>                                                        a passage
    {passage}\nSummarize the above passage: <EOS>                         with a passage prompt (equation 6)

Every segment is tokenised on its own, so the tokens of a query never depend on its neighbours and the
tokens before it (the *prefix*) are the same for all queries of a task. EOS is appended here, not by a
tokenizer flag that some tokenizers ignore. Truncation cuts the query or passage text, never the instruction,
the suffix or EOS; an example that does not fit is dropped whole and counted. A text that spells a control
token is plain text, and what UTF-8 cannot hold (a lone surrogate) becomes "?".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icl_embed.config import PromptConfig, TemplateConfig
from icl_embed.errors import ConfigError, ModelError
from icl_embed.examples import Example

SEPARATOR = "\n\n"
PASSAGE_PROMPT = "\nSummarize the above passage: "
SPECIAL_TOKENS = ("<instruct>", "<query>", "<response>")
SLOT = -1  # in place of a token: here stands the embedding of a demonstration

Tokens = list[int]


def clean(text: str) -> str:
    """The text as UTF-8 can hold it."""
    return text.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class Prefix:
    """The tokens that all queries of a task share: BOS, examples, and the head of the query.

    Attributes
        demonstrations: tokens of each example that is to be embedded; its vector takes a ``SLOT``.
    """

    tokens: Tokens
    num_examples: int
    num_dropped: int
    demonstrations: tuple[tuple[int, ...], ...] = ()


class PromptBuilder:
    """Builds the token ids of queries and passages for one tokenizer and one set of budgets."""

    def __init__(self, tokenizer: Any, budgets: PromptConfig, template: TemplateConfig | None = None) -> None:
        """Raises ModelError if the tokenizer lacks EOS, or special tokens that the template needs."""
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "the tokenizer has no EOS token; the embedding is pooled there, so one is needed"
            )
        self.tokenizer = tokenizer
        self.budgets = budgets
        self.template = template or TemplateConfig()
        self.eos: Tokens = [tokenizer.eos_token_id]
        self.bos: Tokens = _leading_bos(tokenizer)
        self._puts_space = self._finds_space_before_texts()
        is_joined = self.template.special_tokens or self._puts_space
        self.space = "" if is_joined else " "  # before a text, after the word that announces it
        self._marks = self._special_marks() if self.template.special_tokens else None
        self._suffix = self._make_suffix()
        self._separator = self._continued(SEPARATOR)
        self._passage_suffix = self._continued(PASSAGE_PROMPT) if self.template.passage_prompt else []
        self._heads: dict[str, Tokens] = {}

    def _special_marks(self) -> Tokens:
        known = self.tokenizer.get_vocab()
        missing = [token for token in SPECIAL_TOKENS if token not in known]
        if missing:
            raise ModelError(
                f"the tokenizer has no token {', '.join(missing)}; train with model.template.special_tokens "
                "or use the plain template"
            )
        return [known[token] for token in SPECIAL_TOKENS]

    def _make_suffix(self) -> Tokens:
        if self._marks is None:
            return self._continued("\nResponse:")
        return [*self._continued("\n"), self._marks[2]]

    def _make_head(self, instruction: str) -> Tokens:
        if self._marks is None:
            return self.tokenize([f"Instruct: {instruction}\nQuery:"])[0]
        return [self._marks[0], *self.tokenize([f"{instruction}\n"])[0], self._marks[1]]

    def _finds_space_before_texts(self) -> bool:
        """Whether the tokenizer puts a space before every text of its own, as SentencePiece does."""
        return bool(self.tokenizer.convert_ids_to_tokens(self.tokenize(["\n"])[0][0]) == "▁")

    def _continued(self, text: str) -> Tokens:
        """Tokens of a text that starts with a line break and follows another: no space comes before it."""
        tokens = self.tokenize([text])[0]
        return tokens[1:] if self._puts_space else tokens

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text alone: no special tokens are added, and none are recognised."""
        if not texts:
            return []
        encoded = self.tokenizer(list(map(clean, texts)), add_special_tokens=False, split_special_tokens=True)
        ids: list[Tokens] = encoded["input_ids"]
        return ids

    @property
    def query_end(self) -> Tokens:
        """Tokens after a query's text, with EOS."""
        return self._suffix + self.eos

    @property
    def passage_end(self) -> Tokens:
        """Tokens after a passage's text, with EOS."""
        return self._passage_suffix + self.eos

    def head(self, instruction: str) -> Tokens:
        """Tokens from the instruction to where the query begins, computed once per instruction.

        Raises
            ConfigError: the instruction leaves no room for a query.
        """
        if instruction not in self._heads:
            tokens = self._make_head(instruction)
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
        if self.template.demonstrations:
            return self._demonstrations(
                head, self.example_tokens(instruction, examples[:room]), len(examples)
            )
        tokens = list(self.bos)
        used = 0
        for shown in self.example_tokens(instruction, examples):
            if len(shown) > room:
                break
            tokens += shown
            room -= len(shown)
            used += 1
        return Prefix(tokens + head, used, len(examples) - used)

    def _demonstrations(self, head: Tokens, shown: list[Tokens], wanted: int) -> Prefix:
        """One slot per example, and the example as a text of its own (EPIC, arXiv 2605.01372)."""
        separator = len(self._separator)
        texts = tuple((*self.bos, *tokens[:-separator], *self.eos) for tokens in shown)
        return Prefix([*self.bos, *[SLOT] * len(texts), *head], len(texts), wanted - len(texts), texts)

    def example_tokens(self, instruction: str, examples: Sequence[Example]) -> list[Tokens]:
        """Tokens of each example with its separator; its query and response are cut to their budgets."""
        head = self.head(instruction)
        query_room = max(1, self.budgets.example_query_tokens - len(head))
        queries = self.tokenize([self.space + example.query for example in examples])
        responses = self.tokenize([self.space + example.response for example in examples])
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
        texts = self.tokenize([self.space + query for query in queries])
        return [text[:room] + self.query_end for text in texts]

    def passages(self, passages: Sequence[str]) -> list[Tokens]:
        """Tokens of each passage: the raw text (paper section 4.5), a prompt if asked for, and EOS."""
        room = self.budgets.passage_tokens - len(self.bos) - len(self.passage_end)
        return [self.bos + text[:room] + self.passage_end for text in self.tokenize(passages)]


def _leading_bos(tokenizer: Any) -> Tokens:
    """BOS if this tokenizer starts its own sequences with one (SmolLM2 and Qwen do not, Llama does)."""
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and ids and ids[0] == bos else []
