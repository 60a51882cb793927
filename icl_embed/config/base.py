"""Words and rules that every section of the config shares."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

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
