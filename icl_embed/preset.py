"""From a TOML preset and ``--set`` overrides to the config tree."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from icl_embed.config import RunConfig
from icl_embed.config.nearest import explain_unknown
from icl_embed.errors import ConfigError


def load_config(preset: Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a preset and apply ``section.key=value`` overrides.

    Values are TOML; a bare word that is not valid TOML is taken as a string.

    Raises
        ConfigError: unreadable file, unknown key, wrong type or range; the message names the key.
    """
    tree: dict[str, Any] = {}
    if preset is not None:
        try:
            tree = tomllib.loads(preset.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"cannot read the preset {preset}: {error}") from error
        tree.setdefault("preset", preset.stem)
    for override in overrides:
        _apply_override(tree, override)
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"an override must look like train.temperature=0.02, found {override!r}")
    *parents, leaf = key.strip().split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"in the override {override!r}, {parent!r} is a value, not a section")
    try:
        node[leaf] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        node[leaf] = text


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        key = ".".join(path) or "config"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{key}: {explain_unknown(RunConfig, path)}")
            continue
        found = "" if isinstance(problem["input"], dict | BaseModel) else f" (found {problem['input']!r})"
        lines.append(f"{key}: {problem['msg'].removeprefix('Value error, ')}{found}")
    return "the config is not valid:\n  " + "\n  ".join(lines)
