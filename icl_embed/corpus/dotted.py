"""Dotted paths into parsed JSON and YAML: where records are, and what they take from around them.

A record's fields are usually in it. Of maps in maps (services of operations, types of fields) a record also
needs what is around it: ``../`` climbs, ``$.`` starts at the document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from icl_embed.corpus.records import Record, fault, place_fields
from icl_embed.errors import DataError

MISSING = object()
Outer = tuple[Any, ...]
"""What a value lies in, from the document inwards."""


def at_path(value: Any, path: str) -> Any:
    """The value at a dotted path (``a.0.b``; ``*`` maps over a list), or ``MISSING``."""
    steps = path.split(".") if path else []
    for index, step in enumerate(steps):
        if step == "*":
            if not isinstance(value, list):
                return MISSING
            rest = ".".join(steps[index + 1 :])
            return [found for item in value if (found := at_path(item, rest)) is not MISSING]
        value = _inner(value, step)
        if value is MISSING:
            return MISSING
    return value


def entries(document: Any, path: str, file: str) -> Iterator[tuple[Any, Outer]]:
    """The records at a dotted path, each with what it lies in.

    ``*`` is every element of a list, or every {key, value} of a mapping; ``key?`` passes over what has no
    such key; ``**`` is a value and everything nested in it, and what follows passes over all that does not
    fit.

    Raises
        DataError: the path does not exist, or ``*`` meets a single value.
    """
    found: Iterator[tuple[Any, Outer]] = iter([(document, ())])
    lenient = False
    for step in path.split(".") if path else []:
        lenient = lenient or step == "**"
        found = _stepped(found, step, path, file, lenient)
    return found


def _stepped(
    places: Iterator[tuple[Any, Outer]], step: str, path: str, file: str, lenient: bool
) -> Iterator[tuple[Any, Outer]]:
    for parent, outer in places:
        if step == "**":
            yield from _nested(parent, outer)
        elif step == "*" and isinstance(parent, dict):
            yield from (({"key": key, "value": value}, (*outer, parent)) for key, value in parent.items())
        elif step == "*" and isinstance(parent, list):
            yield from ((item, (*outer, parent)) for item in parent)
        elif step != "*" and (inner := _inner(parent, step)) is not MISSING:
            yield inner, (*outer, parent)
        elif step != "*" and step.endswith("?"):
            inner = _inner(parent, step.removesuffix("?"))
            if inner is not MISSING:
                yield inner, (*outer, parent)
        elif not lenient:
            raise _does_not_fit(parent, step, path, file)


def _nested(value: Any, outer: Outer) -> Iterator[tuple[Any, Outer]]:
    """The value and every mapping and list below it, in the order of the document."""
    waiting = [(value, outer)]
    while waiting:
        value, outer = waiting.pop()
        yield value, outer
        below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        around = (*outer, value)
        waiting += [(item, around) for item in reversed(list(below)) if isinstance(item, dict | list)]


def _inner(value: Any, step: str) -> Any:
    if isinstance(value, dict) and step in value:
        return value[step]
    if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
        return value[int(step)]
    return MISSING


def _does_not_fit(parent: Any, step: str, path: str, file: str) -> DataError:
    kind = type(parent).__name__
    if step == "*":
        return DataError(f"{file}: the path {path!r} has a * where there is a single {kind}")
    shown = ", ".join(map(str, list(parent)[:8])) if isinstance(parent, dict) else kind
    return DataError(f"{file}: the path {path!r} fails at {step!r}; what is there: {shown}")


def select(value: Any, fields: Mapping[str, str], file: str, number: int, outer: Outer = ()) -> Record:
    """A record out of a parsed JSON or YAML value.

    Raises
        DataError: the value is not a mapping and no fields say what to take from it.
    """
    place = place_fields(file, number)
    if fields:
        found = {name: _around(value, outer, path) for name, path in fields.items()}
        return {name: item for name, item in found.items() if item is not MISSING} | place
    if not isinstance(value, dict):
        raise fault(file, number, f"expected an object with named fields, found {type(value).__name__}")
    return {**value, **place}


def _around(value: Any, outer: Outer, path: str) -> Any:
    """The value at a path that may climb (``../``) or start at the document (``$.``)."""
    if path.startswith("$."):
        return at_path((*outer, value)[0], path.removeprefix("$."))
    chain = [*outer, value]
    while path.startswith("../"):
        path = path.removeprefix("../")
        chain = chain[:-1]
    return at_path(chain[-1], path) if chain else MISSING
