"""From a score artefact to the rows of the results database."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from icl_embed.errors import EvaluationError
from icl_embed.evaluate.scores import (
    EXAMPLES_NAME,
    EvaluationScores,
    SettingScore,
    read_measurements,
    read_scores,
)
from icl_embed.results.schema import arrow_schema
from icl_embed.store import Artefact
from icl_embed.store.manifest import Manifest

Row = dict[str, Any]

SAME_NAME = ("model", "model_fingerprint", "family", "kind", "split", "subset", "metric", "aggregation")
ALSO_SAME = ("trained_on", "served_from", "dtype")
OF_SETTING = ("setting", "shots", "selection", "seed", "quality", "mean", "low", "high", "seconds")
COSTS = ("query_tokens_mean", "query_seconds", "passage_seconds")


def tables_of(artefact: Artefact, manifest_digest: str) -> dict[str, pa.Table]:
    """What an artefact adds to every table but ``version``.

    Raises
        EvaluationError: a file of the artefact is not what this version writes, or a value is not finite.
        StoreError: the manifest is missing or damaged.
    """
    manifest, folder = artefact.manifest, artefact.path
    scores = read_scores(folder)
    about = {
        "reference": artefact.reference,
        "stage": artefact.stage,
        "label": manifest.label,
        "created": manifest.created,
        "git_commit": manifest.git_commit,
        "libraries": json.dumps(manifest.libraries, sort_keys=True),
        "manifest": manifest_digest,
    }
    rows: dict[str, list[Row]] = {
        "artefacts": [about],
        "scores": [_score(artefact, manifest, scores, result) for result in scores.results],
        "examples": _examples(artefact.reference, folder),
        "absences": [
            {
                "reference": artefact.reference,
                "task": task_name(scores),
                "model": scores.model,
                "model_fingerprint": scores.model_fingerprint,
                **asdict(absence),
            }
            for absence in scores.absent
        ],
    }
    return {
        "item_values": _values(artefact.reference, folder, scores),
        **{table: _as_arrow(table, found) for table, found in rows.items()},
    }


def _as_arrow(table: str, rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=arrow_schema(table))


def task_name(scores: EvaluationScores) -> str:
    """The name of what was evaluated: scores are compared only when it is equal."""
    subset = "" if scores.subset in ("", "default", scores.dataset) else f"/{scores.subset}"
    split = "" if scores.split in ("", "test") else f":{scores.split}"
    return f"{scores.dataset}{subset}{split}"


def _score(artefact: Artefact, manifest: Manifest, scores: EvaluationScores, result: SettingScore) -> Row:
    data = scores.data_fingerprint or str(manifest.key.get("inputs", {}).get("dataset", ""))
    return {
        "reference": artefact.reference,
        "task": task_name(scores),
        "num_items": result.num_queries,
        "data_fingerprint": data,
        "created": manifest.created,
        "git_commit": manifest.git_commit,
        **{name: getattr(scores, name) for name in (*SAME_NAME, *ALSO_SAME)},
        **{name: getattr(result, name) for name in (*OF_SETTING, *COSTS)},
    }


def _values(reference: str, folder: Path, scores: EvaluationScores) -> pa.Table:
    schema = arrow_schema("item_values")
    if not scores.results:
        return schema.empty_table()  # rankings without public judgements
    tables = []
    for setting, measured in read_measurements(folder, scores).items():
        count = len(measured.ids)
        if None in measured.values or not np.isfinite(measured.values).all():
            raise EvaluationError(f"{folder}: {setting} holds a value that is not finite; evaluate it again")
        columns = {
            "reference": [reference] * count,
            "setting": [setting] * count,
            "position": range(count),
            "item_id": measured.ids,
            "value": measured.values,
            "target": measured.targets or [None] * count,
        }
        tables.append(pa.table(columns, schema=schema))
    return pa.concat_tables(tables)


def _examples(reference: str, folder: Path) -> list[Row]:
    try:
        shown: dict[str, Any] = json.loads((folder / EXAMPLES_NAME).read_bytes())
        return [
            {
                "reference": reference,
                "setting": setting,
                "set_number": number,
                "position": position,
                "query": str(one["query"]),
                "response": str(one["response"]),
            }
            for setting, entry in shown.items()
            for number, examples in enumerate(entry.get("sets", [entry.get("examples", [])]))
            for position, one in enumerate(examples)
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EvaluationError(f"{folder / EXAMPLES_NAME} is not a list of examples: {error}") from error
