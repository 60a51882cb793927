"""Files of texts and examples, and files of vectors, as the commands read and write them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from icl_embed.errors import DataError
from icl_embed.examples import Example, example_of
from icl_embed.store.files import write_atomically

Parsed = TypeVar("Parsed")


def read_texts(path: Path) -> list[str]:
    """The texts of a file, one per line: plain lines, or in ``.jsonl`` strings or objects with a ``text``.

    Raises
        DataError: the file cannot be read, or a line is not what it should be; names the line.
    """
    return list(stream_texts(path))


def stream_texts(path: Path) -> Iterator[str]:
    """The same, one at a time."""
    if path.suffix == ".jsonl":
        yield from _parsed_lines(path, _text_of)
    else:
        yield from (line.removesuffix("\r") for line in _lines(path))


def read_examples(path: Path) -> list[Example]:
    """The examples of a ``.jsonl`` file, objects with ``query`` and ``response``, in their order.

    A ``.json`` file holds one object with such a list under ``examples``, as ``icl-embed examples search``
    saves it.

    Raises
        DataError: the file cannot be read, or a line is not an example; names the line.
    """
    if path.suffix == ".json":
        return _saved_examples(path)
    return list(_parsed_lines(path, example_of))


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]], about: dict[str, str]) -> None:
    """Write ``.npy`` (one array) or ``.safetensors`` (any number, with a description), atomically.

    Raises
        DataError: another ending, or several arrays for ``.npy``.
        StoreError: the disk refused.
    """
    refuse_output_name(path, num_arrays=len(arrays))
    if path.suffix == ".npy":
        buffer = io.BytesIO()
        [array] = arrays.values()
        np.save(buffer, array, allow_pickle=False)
        write_atomically(path, buffer.getvalue())
    else:
        from safetensors.numpy import save

        write_atomically(path, save(arrays, about))


def refuse_output_name(path: Path, *, num_arrays: int = 1) -> None:
    """Raise DataError for a name that ``write_arrays`` cannot use: before hours of work, not after."""
    if path.suffix not in (".npy", ".safetensors"):
        raise DataError(f"--output must end in .npy or .safetensors, found {path.name}")
    if path.suffix == ".npy" and num_arrays > 1:
        raise DataError("int8 vectors need their scales beside them; let --output end in .safetensors")


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The number, from 1, and the value of each line.

    Raises
        DataError: the file cannot be read, or a line is not JSON in UTF-8; names the line.
    """
    for number, line in enumerate(_lines(path), start=1):
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from error


def _lines(path: Path) -> Iterator[str]:
    number = 0
    try:
        with path.open("rb") as handle:  # in bytes: a line of texts may hold rare line ends inside a text
            for number, line in enumerate(handle, start=1):
                yield line.removesuffix(b"\n").decode("utf-8-sig" if number == 1 else "utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {number}: not UTF-8 ({error.reason})") from error


def _parsed_lines(path: Path, parse: Callable[[Any], Parsed | None]) -> Iterator[Parsed]:
    for number, value in read_json_lines(path):
        found = parse(value)
        if found is None:
            wanted = '{"query": …, "response": …}' if parse is example_of else 'a text or {"text": …}'
            shown = json.dumps(value, ensure_ascii=False)[:60]
            raise DataError(f"{path}, line {number}: expected {wanted}, found {shown}")
        yield found


def _saved_examples(path: Path) -> list[Example]:
    try:
        found = json.loads("\n".join(_lines(path)))
        examples = [example_of(value) for value in found["examples"]]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise DataError(
            f'{path}: expected {{"examples": [{{"query": …, "response": …}}]}} ({error})'
        ) from error
    if None in examples:
        raise DataError(f"{path}: example {examples.index(None)} lacks a query or a response that is a text")
    return [example for example in examples if example is not None]


def _text_of(value: Any) -> str | None:
    text = value.get("text") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None
