"""Words and rules that every section of the config shares, and what of a section decides a result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _on_this_machine(value: Any) -> Any:
    """A path as it was written: a Path would make a local folder ``s3:`` of an address."""
    if isinstance(value, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", value):
        raise ValueError(
            "expected a folder on this machine; object stores and other addresses are not supported: "
            "mount the store and give the folder of the mount"
        )
    return str(Path(value).expanduser()) if isinstance(value, str) else value  # JSON has no Path


LocalPath = Annotated[Path, BeforeValidator(_on_this_machine)]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Kind = Literal["retrieval", "reranking", "classification", "clustering", "sts", "pair_classification"]
RANKING_KINDS = frozenset({"retrieval", "reranking"})  # queries are answered by ranking passages
LABEL_KINDS = frozenset({"classification", "clustering"})  # texts have a label
SYMMETRIC_KINDS = LABEL_KINDS | {"sts", "pair_classification"}  # both sides are queries
POSITIVE_SHARE = 0.8  # an sts pair from this share of the scale's maximum on is a positive


class Section(BaseModel):
    """Base of every config section: frozen, strict about names, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @property
    def changes_result(self) -> bool:
        """Whether what is set here decides a result; where it does not, no key holds the section."""
        return True


NO_RESULT = "changes no result"
"""Mark of a field, ``Annotated[…, NO_RESULT]``: paths, processes, checkpoints. No key holds it."""

ADDED_LATER = "no key holds its default"
"""Mark of a field that came when there were artefacts already: left at its default, it changes no key."""

AnySection = TypeVar("AnySection", bound=Section)


def untouched(section: Section) -> set[str]:
    """The names of the fields ``ADDED_LATER`` that have their default."""
    fields = type(section).model_fields
    return {
        name
        for name, field in fields.items()
        if ADDED_LATER in field.metadata and getattr(section, name) == field.get_default()
    }


def identity(section: Section, *left_out: str) -> dict[str, Any]:
    """What a key holds of a section: its fields as JSON, but for those that change no result.

    Parameters
        left_out: fields that another stage reads, not the one whose key this is.
    """
    found, unset = section.model_dump(mode="json"), untouched(section)
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        is_idle = isinstance(value, Section) and not value.changes_result
        if name in left_out or name in unset or NO_RESULT in field.metadata or is_idle:
            del found[name]
        elif isinstance(value, Section):
            found[name] = identity(value)
    return found


def restored(settings: Mapping[str, Any], mine: AnySection) -> AnySection:
    """The section that a key describes, with what changes no result as this run has it.

    Parameters
        settings: what ``identity`` made of a section.
        mine: the section of this run.
    """
    values = dict(settings)
    for name, field in type(mine).model_fields.items():
        value = getattr(mine, name)
        if NO_RESULT in field.metadata:
            values[name] = value
        elif isinstance(value, Section) and name in settings:
            values[name] = restored(settings[name], value)
        elif isinstance(value, Section) and not value.changes_result:
            values[name] = value
    return type(mine)(**values)
