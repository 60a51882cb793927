"""``icl_embed.json``: how a saved embedder must be fed and read. Written with every model we publish."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from icl_embed.config import PromptConfig, Section, TemplateConfig
from icl_embed.errors import ModelError
from icl_embed.store.files import write_atomically

SETTINGS_NAME = "icl_embed.json"


class EmbedderSettings(Section):
    """Everything besides weights and tokenizer that decides a vector."""

    attention: Literal["causal", "bidirectional"] = "causal"
    pooling: Literal["last", "mean"] = "last"
    template: TemplateConfig = TemplateConfig()
    prompt: PromptConfig = PromptConfig()


def read_settings(folder: Path) -> EmbedderSettings:
    """The settings of a model folder; the defaults when it has none (an untrained base model).

    Raises
        ModelError: the file is there but not valid.
    """
    path = folder / SETTINGS_NAME
    if not path.exists():
        return EmbedderSettings()
    try:
        return EmbedderSettings.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelError(f"{path} is not valid: {error}") from error


def write_settings(folder: Path, settings: EmbedderSettings) -> None:
    """Write the settings beside the weights."""
    write_atomically(folder / SETTINGS_NAME, settings.model_dump_json(indent=1).encode())
