"""How a saved embedder must be fed and read: ``icl_embed.json``, or what a published model tells.

The reference code adds random rows and never trains them. Here a new row starts as the mean of the words it
stands for, and ``lora.attach`` makes the rows trainable.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from icl_embed.config import PromptConfig, Section, TemplateConfig
from icl_embed.errors import ModelError
from icl_embed.prompts import SPECIAL_TOKENS, PromptBuilder
from icl_embed.store.files import write_atomically

logger = logging.getLogger(__name__)

SETTINGS_NAME = "icl_embed.json"


class EmbedderSettings(Section):
    """Everything besides weights and tokenizer that decides a vector."""

    attention: Literal["causal", "bidirectional"] = "causal"
    pooling: Literal["last", "mean"] = "last"
    template: TemplateConfig = TemplateConfig()
    prompt: PromptConfig = PromptConfig()


def read_settings(folder: Path) -> EmbedderSettings:
    """The settings of a model folder.

    Without a file of ours it is an untrained base model, or one in the form of bge-en-icl, whose tokenizer
    has the special tokens of the prompt; either is read with causal attention and last-token pooling.

    Raises
        ModelError: a file is there but not valid.
    """
    path = folder / SETTINGS_NAME
    if not path.exists():
        return EmbedderSettings(template=template_of(folder))
    try:
        return EmbedderSettings.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelError(f"{path} is not valid: {error}") from error


def write_settings(folder: Path, settings: EmbedderSettings) -> None:
    """Write the settings beside the weights."""
    write_atomically(folder / SETTINGS_NAME, settings.model_dump_json(indent=1).encode())


def build_prompts(tokenizer: Any, settings: EmbedderSettings, config: Any) -> PromptBuilder:
    """The prompts of a model, within the positions that its transformers config gives it.

    Raises
        ModelError: the tokenizer lacks a token that the prompts need.
    """
    budgets = _within_context(settings.prompt, getattr(config, "max_position_embeddings", None))
    return PromptBuilder(tokenizer, budgets, settings.template)


def _within_context(prompt: PromptConfig, context: int | None) -> PromptConfig:
    """The budgets, none larger than the positions that a model has; a warning tells of a change."""
    budgets = prompt.model_dump()
    over = [name for name, value in budgets.items() if context is not None and value > context]
    if context is None or not over:
        return prompt
    logger.warning("the model has %d positions; %s lowered to that", context, ", ".join(over))
    return PromptConfig(**(budgets | dict.fromkeys(over, context)))


def has_prompt_tokens(folder: Path) -> bool:
    """Whether the tokenizer knows ``<instruct>``, ``<query>`` and ``<response>``, as bge-en-icl's does.

    Raises
        ModelError: a tokenizer file is not JSON.
    """
    known = {
        *_contents(_read(folder / "tokenizer.json").get("added_tokens", [])),
        *_contents(_read(folder / "tokenizer_config.json").get("added_tokens_decoder", {}).values()),
        *_read(folder / "added_tokens.json"),
    }
    return known.issuperset(SPECIAL_TOKENS)


def template_of(folder: Path) -> TemplateConfig:
    """The template of a folder without settings of ours: with special tokens if it has them."""
    return TemplateConfig(special_tokens=has_prompt_tokens(folder))


def _contents(tokens: Any) -> list[str]:
    return [str(token.get("content")) for token in tokens if isinstance(token, dict)]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not JSON: {error}; copy it again from its source") from error
    return content if isinstance(content, dict) else {}


WORDS = dict(zip(SPECIAL_TOKENS, ("Instruct:", "Query:", "Response:"), strict=True))


def add_special_tokens(
    model: Any, tokenizer: Any, whole: Callable[[Any], AbstractContextManager[None]] = nullcontext
) -> list[int]:
    """Add the tokens that are missing, to both, in place; returns the ids of all of them.

    Parameters
        whole: makes a module's weights whole where ranks share them, and keeps what is written to them.

    Raises
        ModelError: the tokenizer cannot spell the word that a token stands for.
    """
    from transformers import AddedToken

    missing = [token for token in SPECIAL_TOKENS if token not in tokenizer.get_vocab()]
    words = {token: tokenizer(WORDS[token], add_special_tokens=False)["input_ids"] for token in missing}
    for token, pieces in words.items():
        if not pieces:
            raise ModelError(f"the tokenizer has no tokens for {WORDS[token]!r}, the meaning of {token}")
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in missing], special_tokens=True
    )
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad(), whole(model.get_input_embeddings()):
        table = model.get_input_embeddings().weight
        for token, pieces in words.items():
            table[tokenizer.convert_tokens_to_ids(token)] = table[pieces].float().mean(dim=0).to(table.dtype)
    return [int(tokenizer.convert_tokens_to_ids(token)) for token in SPECIAL_TOKENS]
