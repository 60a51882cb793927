"""Files of examples: our own choice as JSON, a user's lines, and those that came with the paper.

The part that every reader needs is ``{"instruction": …, "examples": [{"query": …, "response": …}, …]}``; the
rest says where they came from and what they were worth.

Read are, told apart by their ending and their fields:

- ``.jsonl``: one example per line, ``{"query", "response"}``; for AIR-Bench ``pos`` is the response.
- ``.json``: a list of such objects (the paper's MTEB files), or our ``{"instruction", "examples": […]}``.
- ``.csv``: a query column and a response column in one of the paper's spellings.

A folder holds one file per task, by the task's name; the paper's AIR-Bench folder has one per domain instead
(``qa/law.jsonl``, ``long-doc/arxiv-gemini.jsonl``).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icl_embed.errors import DataError
from icl_embed.examples import Example, ExampleSet, example_of
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


SUFFIXES = (".jsonl", ".json", ".csv")
RESPONSE_FIELDS = ("response", "pos", "answer", "positive")
CSV_COLUMNS = (
    ("query", "response"),
    ("query", "pos"),
    ("text", "label"),
    ("sent1", "sent2"),
    ("sentence1", "sentence2"),
)


def find_example_file(where: Path, task: str) -> Path | None:
    """The file of a task: ``where`` itself if it is a file, else the file in it that the task is named by.

    Raises
        DataError: there is no such file or folder, or two files fit.
    """
    if where.is_file():
        return where
    if not where.is_dir():
        raise DataError(f"there is no file or folder {where}; --examples takes either")
    wanted = [name for name in _names(task) if _is_plain(name)]
    for name in wanted:
        found = [where / f"{name}{suffix}" for suffix in SUFFIXES if (where / f"{name}{suffix}").is_file()]
        if len(found) > 1:
            raise DataError(f"{where} has {' and '.join(path.name for path in found)}; keep one of them")
        if found:
            return found[0]
    return None


def read_example_file(path: Path) -> list[Example]:
    """The examples of a file, in its order.

    Raises
        DataError: unreadable, another format, or an example without a query or with an empty response.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if path.suffix == ".csv":
        return _from_table(path, text)
    if path.suffix == ".json":
        return _from_objects(path, _objects_of_json(path, text))
    if path.suffix == ".jsonl":
        lines = [line for line in text.split("\n") if line.strip()]
        return _from_objects(path, [_parse(path, line, f"line {n}") for n, line in enumerate(lines, 1)])
    raise DataError(f"{path}: an example file ends in {', '.join(SUFFIXES)}")


def _names(task: str) -> Iterable[str]:
    """What a task's file may be called: its name, and for AIR-Bench its domain or data set in its type."""
    bare = task.split("[", maxsplit=1)[0]
    short = bare.rsplit("/", 1)[-1]
    yield from dict.fromkeys((bare, short))
    kind, *parts = short.split("_")
    if kind in ("qa", "long-doc") and len(parts) >= 2:
        domain, *dataset = parts[:-1]
        name = "-".join([domain, *dataset])
        yield from (f"{kind}/{name}", f"AIR-Bench/{kind}/{name}")
    if short.startswith("CQADupstack"):  # one file serves all its forums
        yield from ("CQADupstackRetrieval", "CQADupstack")
    yield f"MTEB/{short}"


def _is_plain(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/") and "\0" not in name


def _objects_of_json(path: Path, text: str) -> list[Any]:
    found = _parse(path, text, "the file")
    if isinstance(found, dict):
        found = found.get("examples")
    if not isinstance(found, list):
        raise DataError(f'{path}: expected a list of examples, or an object with such a list in "examples"')
    return found


def _parse(path: Path, text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, {where}: not JSON ({error})") from error


def _from_objects(path: Path, found: list[Any]) -> list[Example]:
    examples = []
    for number, item in enumerate(found, 1):
        fields = item if isinstance(item, dict) else {}
        response = next((fields[name] for name in RESPONSE_FIELDS if name in fields), None)
        if isinstance(response, list):  # FlagEmbedding's training rows keep positives in a list
            response = response[0] if response else None
        examples.append(_checked(path, number, fields.get("query"), response))
    return examples


def _from_table(path: Path, text: str) -> list[Example]:
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    columns = rows[0].keys() if rows else ()
    for query, response in CSV_COLUMNS:
        if query in columns and response in columns:
            return [_checked(path, n, row[query], row[response]) for n, row in enumerate(rows, 1)]
    pairs = ", ".join("/".join(pair) for pair in CSV_COLUMNS)
    raise DataError(f"{path}: found the columns {', '.join(columns) or 'none'}, expected {pairs}")


def _checked(path: Path, number: int, query: Any, response: Any) -> Example:
    for name, value in (("query", query), ("response", response)):
        if not isinstance(value, str) or not value.strip():
            raise DataError(
                f"{path}: example {number} has no {name}; expected a text under "
                f"{'query' if name == 'query' else ' or '.join(RESPONSE_FIELDS)}"
            )
    return Example(query, response)
