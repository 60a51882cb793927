"""YAML, as plain data: every scalar is the text that was written (no ``no`` → False, no dates, no objects).

Aliases are refused: nine lines of them can stand for gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from icl_embed.corpus.dotted import entries, select
from icl_embed.corpus.read_lines import not_encoded
from icl_embed.corpus.records import Record, Tolerance
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import Fetched

MAX_DOCUMENT_BYTES = 64 << 20
MAX_DEPTH = 100
_Base: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class _PlainLoader(_Base):  # type: ignore[misc]
    """Scalars as text, and every key once."""


def _construct_mapping(loader: Any, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, "a key is not a text", key_node.start_mark)
        if key in mapping:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} appears twice", key_node.start_mark
            )
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_PlainLoader.construct_mapping = _construct_mapping


def read_yaml(file: Fetched, table: Table, tolerance: Tolerance) -> Iterator[Record]:
    """The records at ``table.records`` of one document (default: every entry of its top level).

    Raises
        DataError: not YAML, too long, too deep, an alias, a duplicate key.
    """
    with file.open() as handle:
        data = handle.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise DataError(f"{file.name} is longer than {MAX_DOCUMENT_BYTES} bytes")
    document = _parse(data, table.encoding, file.name)
    for number, (value, outer) in enumerate(entries(document, table.records or "*", file.name), start=1):
        try:
            yield select(value, table.fields, file.name, number, outer)
        except DataError as error:
            tolerance.reject(error)


def _parse(data: bytes, encoding: str, file: str) -> Any:
    try:
        text = data.decode(encoding)
        depth = 0
        for event in yaml.parse(text, Loader=_PlainLoader):
            if isinstance(event, yaml.AliasEvent):
                raise DataError(f"{file}, {_line(event)}: YAML aliases are refused")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise DataError(f"{file}, {_line(event)}: nested deeper than {MAX_DEPTH}")
        loader = _PlainLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except UnicodeError as error:
        raise DataError(f"{file} {not_encoded(encoding, str(error))}") from error
    except yaml.YAMLError as error:
        raise DataError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error


def _line(event: yaml.Event) -> str:
    return f"line {event.start_mark.line + 1}" if event.start_mark else "somewhere"
