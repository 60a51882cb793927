"""Chosen examples as a JSON file: what evaluation, compile-task and people read.

The part that every reader needs is ``{"instruction": …, "examples": [{"query": …, "response": …}, …]}``; the
rest says where they came from and what they were worth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icl_embed.errors import DataError
from icl_embed.examples import ExampleSet, example_of
from icl_embed.store.files import write_atomically


@dataclass(frozen=True)
class ChosenExamples:
    """Examples of a task, with whatever is known about their choice."""

    instruction: str
    examples: ExampleSet
    origin: Mapping[str, Any] = field(default_factory=dict)


def write_chosen(path: Path, chosen: ChosenExamples) -> None:
    """Write the file, whole or not at all."""
    content = {
        "instruction": chosen.instruction,
        "examples": [{"query": one.query, "response": one.response} for one in chosen.examples],
        **chosen.origin,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read_chosen(path: Path) -> ChosenExamples:
    """Read a file of examples.

    Raises
        DataError: missing, no JSON, or without an instruction and a list of examples that are texts.
    """
    try:
        content = json.loads(path.read_bytes())
        found = [example_of(item) for item in content.pop("examples")]
        instruction = content.pop("instruction")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path} is not a file of examples ({type(error).__name__}: {error}); expected "
            '{"instruction": "…", "examples": [{"query": "…", "response": "…"}]}'
        ) from error
    examples = tuple(one for one in found if one is not None)
    if not isinstance(instruction, str) or len(examples) < len(found):
        raise DataError(f"{path}: instruction, queries and responses must be texts")
    return ChosenExamples(instruction, examples, content)
