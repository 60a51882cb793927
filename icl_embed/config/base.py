"""Words and rules that every section of the config shares."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _on_this_machine(value: Any) -> Any:
    """A path as it was written: a Path would make a local folder ``s3:`` of an address."""
    if isinstance(value, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", value):
        raise ValueError(
            "expected a folder on this machine; object stores and other addresses are not supported: "
            "mount the store and give the folder of the mount"
        )
    return Path(value).expanduser() if isinstance(value, str) else value


LocalPath = Annotated[Path, BeforeValidator(_on_this_machine)]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Kind = Literal["retrieval", "reranking", "classification", "clustering", "sts", "pair_classification"]
RANKING_KINDS = frozenset({"retrieval", "reranking"})  # queries are answered by ranking passages
LABEL_KINDS = frozenset({"classification", "clustering"})  # texts have a label
SYMMETRIC_KINDS = LABEL_KINDS | {"sts", "pair_classification"}  # both sides are queries


class Section(BaseModel):
    """Base of every config section: frozen, strict about names, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
