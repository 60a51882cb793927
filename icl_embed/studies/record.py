"""The study artefact: what was found, as rows for machines and with the facts that a reader needs.

- ``study.json``: the whole study.
- ``study.parquet``: its rows, nested values as JSON text, for DuckDB and data frames.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from icl_embed.errors import EvaluationError

STAGE = "study"
STUDY_NAME = "study.json"
ROWS_NAME = "study.parquet"

StudyName = Literal["shots", "examples", "overhead", "overlap"]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """One study of one model.

    Attributes
        facts: how it was made: settings, machine, what was left out.
        rows: one record per point; every row has the same names.
    """

    name: StudyName
    model: str
    model_fingerprint: str
    rows: tuple[Row, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


def write_study(folder: Path, study: Study) -> dict[str, Any]:
    """Write both files; returns counts for the manifest.

    Raises
        EvaluationError: it has no rows, or their names differ.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not study.rows:
        raise EvaluationError(f"the study {study.name} of {study.model} has no rows; nothing was measured")
    names = list(study.rows[0])
    if any(list(row) != names for row in study.rows):
        raise EvaluationError(f"the rows of the study {study.name} have different names")
    text = json.dumps(asdict(study), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / STUDY_NAME).write_text(text, encoding="utf-8")
    columns = {name: [_plain(row[name]) for row in study.rows] for name in names}
    pq.write_table(pa.table(columns), folder / ROWS_NAME)
    return {"study": study.name, "rows": len(study.rows)}


def read_study(folder: Path) -> Study:
    """Read a study artefact.

    Raises
        EvaluationError: missing, or not what ``write_study`` writes.
    """
    path = folder / STUDY_NAME
    try:
        fields = json.loads(path.read_bytes())
        study = Study(**{**fields, "rows": tuple(fields["rows"])})
        known = study.name in get_args(StudyName) and all(isinstance(row, dict) for row in study.rows)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EvaluationError(f"{path} is not a study: {error}; run icl-embed study again") from error
    if not known:
        raise EvaluationError(f"{path}: unknown study {study.name!r}, expected one of {get_args(StudyName)}")
    return study


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | tuple) else value
