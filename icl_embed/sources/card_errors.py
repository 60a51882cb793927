"""Validation errors of cards in words: which key, what is wrong, what was probably meant."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line per problem, e.g. ``source.sha25: unknown key; did you mean sha256?``."""
    lines = []
    for problem in error.errors(include_url=False):
        location = problem["loc"]
        key = ".".join(str(part) for part in location if part not in SOURCE_KINDS) or "card"
        if problem["type"] == "extra_forbidden":
            lines.append(
                f"{key}: unknown key{_suggestion(str(location[-1]), _names_at(model, location[:-1]))}"
            )
            continue
        message = problem["msg"].removeprefix("Value error, ")
        found = problem["input"]
        shown = "" if isinstance(found, dict | BaseModel) else f" (found {_short(found)})"
        lines.append(f"{key}: {message}{shown}")
    return lines


SOURCE_KINDS = ("pypi", "hub", "unpinned", "http", "local")  # pydantic puts the union's tag into the location


def _suggestion(name: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    if not near:
        return f"; valid here: {', '.join(valid)}"
    best = max(near, key=lambda word: (sorted(word) == sorted(name), word[0] == name[0], -near.index(word)))
    return f"; did you mean {best}?"


def _names_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The valid keys of the model that ``location`` leads to."""
    models = [model]
    for part in location:
        inner: list[type[BaseModel]] = []
        for candidate in models:
            if isinstance(part, str) and part in candidate.model_fields:
                inner += _models_in(candidate.model_fields[part].annotation)
        if inner:  # an index, a table's name or a union's tag leads nowhere: stay
            models = [m for m in inner if not _tag(m) or _tag(m) in location] or inner
    names = sorted({name for m in models for name, field in m.model_fields.items() if not field.exclude})
    return names


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _tag(model: type[BaseModel]) -> str:
    """The value of ``kind`` that selects this model in a union, if it is part of one."""
    field = model.model_fields.get("kind")
    choices = typing.get_args(field.annotation) if field is not None else ()
    return str(choices[0]) if len(choices) == 1 else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
