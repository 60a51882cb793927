"""``icl_embed.json``: how a saved embedder must be fed and read. Written with every model we publish."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from icl_embed.config import PromptConfig, Section, TemplateConfig
from icl_embed.errors import ModelError
from icl_embed.model.published import template_of
from icl_embed.prompts import PromptBuilder
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
