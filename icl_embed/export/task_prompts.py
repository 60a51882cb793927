"""The tasks whose prompts go into an export: an instruction and its examples, read from a JSON file.

Two forms are read. Ours: ``{"instruction": …, "examples": [{"query": …, "response": …}, …]}``.
FlagEmbedding's: a list of ``{"instruct": …, "query": …, "response": …}``, all of one instruction.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_embed.errors import DataError
from icl_embed.examples import Example, example_of
from icl_embed.store.files import write_atomically

FLAG_FORM = '[{"instruct": …, "query": …, "response": …}, …]'
OUR_FORM = '{"instruction": …, "examples": [{"query": …, "response": …}, …]}'


@dataclass(frozen=True)
class TaskPrompt:
    """What a task's queries are shown."""

    instruction: str
    examples: tuple[Example, ...] = ()


def read_task_prompt(path: Path) -> TaskPrompt:
    """Read a task's file in either form.

    Raises
        DataError: not JSON, neither form, or examples of several instructions.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the task file {path}: {error}; expected {OUR_FORM}") from error
    if isinstance(content, dict):
        instruction, shown = content.get("instruction"), content.get("examples", [])
    else:
        instruction, shown = _only_instruction(content, path), content
    if not isinstance(instruction, str) or not isinstance(shown, list):
        raise DataError(f"{path} is no task; expected {OUR_FORM} or {FLAG_FORM}")
    return TaskPrompt(instruction, tuple(_example(item, path, n) for n, item in enumerate(shown)))


def _only_instruction(items: Any, path: Path) -> str:
    listed = items if isinstance(items, list) else []
    known = {str(item.get("instruct")) for item in listed if isinstance(item, dict)}
    if len(known) != 1:
        raise DataError(
            f"{path} must be a list of examples of one instruction, {FLAG_FORM}; "
            f"found {len(known)} instructions"
        )
    return known.pop()


def _example(item: Any, path: Path, number: int) -> Example:
    example = example_of(item)
    if example is None:
        raise DataError(
            f"{path}: example {number} must have the texts query and response, found {str(item)[:80]}"
        )
    return example


def write_flag_examples(path: Path, instruction: str, examples: Sequence[Example]) -> None:
    """Write examples as FlagEmbedding reads them (``--examples_for_task``).

    Raises
        StoreError: the disk refused.
    """
    items = [{"instruct": instruction, "query": one.query, "response": one.response} for one in examples]
    write_atomically(path, json.dumps(items, indent=1, ensure_ascii=False).encode())
