"""XML by declared paths, incrementally, through defusedxml: no DTD, no entities, no outside references.

Namespaces are dropped: paths use local names. See ``card_rows.Table`` for the paths.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO
from xml.etree.ElementTree import Element, ParseError  # types and errors only; parsing is defusedxml's

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from icl_embed.corpus.read_lines import opened_as_text
from icl_embed.corpus.records import Record, Tolerance, place_fields
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import Fetched

MAX_DEPTH = 200
ANCESTOR = "ancestor::"


def read_xml(file: Fetched, table: Table, tolerance: Tolerance) -> Iterator[Record]:
    """One record per element that ``table.records`` names (``diag``, or a path: ``Weaknesses/Weakness``).

    A field with several matches is a list; without a match it is nothing. Elements of the same name may be
    nested; inner ones come first.

    Raises
        DataError: not XML, forbidden constructions, nested too deep, or no such element.
    """
    if not table.records or not table.fields:
        raise DataError(
            f"{file.name}: XML needs records (an element) and fields (paths from it) in its table"
        )
    wanted = table.records.split("/")
    number = 0
    try:
        # a text has no bytes that the file's own declaration could speak of: the card's encoding counts
        opened = file.open() if table.encoding == "utf-8" else opened_as_text(file, table.encoding)
        with opened as handle:
            for element, outer in _elements(handle, wanted, file.name):
                number += 1
                found = {name: _value(element, outer, path) for name, path in table.fields.items()}
                yield {**found, **place_fields(file.name, number)}
    except ParseError as error:
        raise DataError(f"{file.name} is not valid XML: {error}") from error
    except DefusedXmlException as error:
        raise DataError(f"{file.name} uses a forbidden XML construction: {type(error).__name__}") from error
    except ValueError as error:  # expat knows no encoding of several bytes but UTF-8 and UTF-16
        raise DataError(
            f'{file.name} cannot be read: {error}; say its encoding in the card, e.g. encoding = "gb18030"'
        ) from error
    except SyntaxError as error:  # ElementPath says so of a path that it does not understand
        raise DataError(f"a path in the fields of {file.name} is not understood: {error}") from error
    if not number:
        raise DataError(f"{file.name} has no element {table.records}")


def _elements(
    handle: IO[bytes] | IO[str], wanted: list[str], file: str
) -> Iterator[tuple[Element, list[Element]]]:
    """(element, its ancestors from the root) of each wanted element at its end; memory is then given back."""
    stack: list[Element] = []
    open_records = 0
    for event, element in defusedxml.ElementTree.iterparse(handle, events=("start", "end"), forbid_dtd=True):
        if event == "start":
            element.tag = _local(element.tag)
            for name in [name for name in element.attrib if name.startswith("{")]:
                element.attrib[_local(name)] = element.attrib.pop(name)
            stack.append(element)
            if len(stack) > MAX_DEPTH:
                raise DataError(f"{file} is nested deeper than {MAX_DEPTH} elements")
            open_records += _is_wanted(stack, wanted)
            continue
        is_record = _is_wanted(stack, wanted)
        stack.pop()
        if not is_record:
            continue
        yield element, stack
        open_records -= 1
        if stack and not open_records:  # an enclosing record still needs its children
            stack[-1].remove(element)


def _is_wanted(stack: list[Element], wanted: list[str]) -> bool:
    return [element.tag for element in stack[-len(wanted) :]] == wanted


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _value(element: Element, outer: list[Element], path: str) -> str | list[str] | None:
    if path.startswith(ANCESTOR):
        tag, _, path = path.removeprefix(ANCESTOR).partition("/")
        found = next((candidate for candidate in reversed(outer) if candidate.tag == tag), None)
        return _below(found, path)
    climbed = len(outer)
    while path.startswith("../"):
        climbed -= 1
        path = path.removeprefix("../")
    return _below(element if climbed == len(outer) else (outer[climbed] if climbed >= 0 else None), path)


def _below(element: Element | None, path: str) -> str | list[str] | None:
    if element is None:
        return None
    steps, separator, attribute = path.rpartition("@") if not path.endswith("]") else (path, "", "")
    if not separator:
        steps, attribute = path, ""
    below = steps.removesuffix("/")
    elements = [element] if below in ("", ".") else element.findall(below)
    values = [
        e.get(attribute, "") if separator else " ".join("".join(e.itertext()).split()) for e in elements
    ]
    values = [value for value in values if value]
    return None if not values else values[0] if len(values) == 1 else values
