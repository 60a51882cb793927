"""Settings of models that others published, told from their tokenizer alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from icl_embed.config import TemplateConfig
from icl_embed.errors import ModelError
from icl_embed.prompts import SPECIAL_TOKENS


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
