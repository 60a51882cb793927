"""``<store>/results.duckdb``: every score of a store in tables, with the artefact it came from.

The file is derived from the artefacts and can be deleted at any time. A refresh reads only what is new,
writes a copy and puts it in place with one rename: readers see the old file or the new one, never a lock.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from icl_embed.errors import EvaluationError, PoolError, StoreError
from icl_embed.evaluation.scores import (
    EXAMPLES_NAME,
    STAGE,
    EvaluationScores,
    SettingScore,
    read_measurements,
    read_scores,
)
from icl_embed.pool.database import (
    Connection,
    QueryResult,
    arrow_input,
    fetch_all,
    open_for_build,
    open_read_only,
    run_user_query,
)
from icl_embed.store import Artefact, Store
from icl_embed.store.files import sha256_of
from icl_embed.store.lock import exclusive
from icl_embed.store.manifest import MANIFEST_NAME, Manifest

VERSION = 2  # raise when a table changes: the file is then built again from the store

TEXT, NUMBER, WHOLE, FLAG = "VARCHAR", "DOUBLE", "BIGINT", "BOOLEAN"
ARROW_TYPES = {TEXT: pa.string(), NUMBER: pa.float64(), WHOLE: pa.int64(), FLAG: pa.bool_()}

TABLES: dict[str, dict[str, tuple[str, str]]] = {
    "artefacts": {
        "reference": (TEXT, "stage/fingerprint: the key of all tables; icl-embed store lineage opens it"),
        "stage": (TEXT, "score (icl-embed eval run) or evaluation (the pipeline)"),
        "label": (TEXT, "as icl-embed store ls shows it"),
        "created": (TEXT, "UTC"),
        "git_commit": (TEXT, "of the code that scored; +changes: the tree was dirty"),
        "libraries": (TEXT, "JSON: versions of torch, transformers, mteb, …"),
        "manifest": (TEXT, "sha256 of the manifest: another one means another artefact"),
    },
    "scores": {
        "reference": (TEXT, "of the artefact"),
        "task": (TEXT, "name, with its subset and split where they are not the usual ones"),
        "family": (TEXT, "mteb, air-bench or local"),
        "kind": (TEXT, "retrieval, sts, …"),
        "split": (TEXT, "what was evaluated"),
        "subset": (TEXT, "what was evaluated"),
        "metric": (TEXT, "main score of the task"),
        "aggregation": (TEXT, "how item values become the score"),
        "model": (TEXT, "name"),
        "model_fingerprint": (TEXT, "of the weights"),
        "setting": (TEXT, "zero-shot, 5-shot seed 1, …"),
        "shots": (WHOLE, "examples asked for"),
        "selection": (TEXT, "strategy that chose the examples"),
        "seed": (WHOLE, "of the draw of examples"),
        "quality": (TEXT, "clean, or how the examples were spoiled"),
        "mean": (NUMBER, "the score, a fraction of one"),
        "low": (NUMBER, "lower end of its interval"),
        "high": (NUMBER, "upper end of its interval"),
        "num_items": (WHOLE, "test items behind it"),
        "draws": (TEXT, "JSON: the score of each classifier that it is an average over"),
        "query_tokens_mean": (NUMBER, "tokens of a query with everything before it"),
        "seconds": (NUMBER, "of the whole run"),
        "query_seconds": (NUMBER, "of encoding queries"),
        "passage_seconds": (NUMBER, "of encoding passages"),
        "trained_on": (FLAG, "whether the task's training split was trained on"),
        "data_fingerprint": (TEXT, "of the data that were read"),
        "served_from": (TEXT, "hub or mirror"),
        "dtype": (TEXT, "number format of the weights"),
        "created": (TEXT, "UTC"),
        "git_commit": (TEXT, "of the code that scored"),
    },
    "item_values": {
        "reference": (TEXT, "of the artefact"),
        "setting": (TEXT, "as in scores"),
        "position": (WHOLE, "order within the setting"),
        "item_id": (TEXT, "query, pair or set of texts"),
        "value": (NUMBER, "its metric, or its predicted similarity"),
        "target": (NUMBER, "its gold score or label, where there is one"),
        "first": (TEXT, "id of its first text, where it is a pair"),
        "second": (TEXT, "id of its second text"),
    },
    "examples": {
        "reference": (TEXT, "of the artefact"),
        "setting": (TEXT, "as in scores"),
        "set_number": (WHOLE, "0 unless examples are chosen per query"),
        "position": (WHOLE, "order in the prompt"),
        "query": (TEXT, "of the example"),
        "response": (TEXT, "of the example"),
    },
    "absences": {
        "reference": (TEXT, "of the artefact"),
        "task": (TEXT, "as in scores"),
        "model": (TEXT, "name"),
        "model_fingerprint": (TEXT, "of the weights"),
        "setting": (TEXT, "that was asked for and not measured"),
        "reason": (TEXT, "why"),
    },
}


def create_statements() -> list[str]:
    """The statements that make an empty database."""
    statements = [f"CREATE TABLE version AS SELECT {VERSION} AS version"]
    for table, columns in TABLES.items():
        body = ", ".join(f'"{name}" {kind}' for name, (kind, _) in columns.items())
        statements.append(f'CREATE TABLE "{table}" ({body})')
        for name, (_, meaning) in columns.items():
            text = meaning.replace("'", "''")
            statements.append(f"""COMMENT ON COLUMN "{table}"."{name}" IS '{text}'""")
    return statements


def arrow_schema(table: str) -> pa.Schema:
    """The Arrow schema of a table's rows."""
    return pa.schema([(name, ARROW_TYPES[kind]) for name, (kind, _) in TABLES[table].items()])


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
        "draws": json.dumps(result.draws),
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
            "first": [first for first, _ in measured.pairs or [(None, None)] * count],
            "second": [second for _, second in measured.pairs or [(None, None)] * count],
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


logger = logging.getLogger(__name__)

RESULTS_NAME = "results.duckdb"


def refresh(root: Path) -> Path:
    """Bring the database of a store up to date and return its path.

    Damaged artefacts, and those that another version wrote, are left out with a warning; removed ones vanish.
    While another process refreshes, the file it has not replaced yet is returned, with a warning.

    Raises
        EvaluationError: the store has no scores.
        StoreError: another process makes the first database of this store, or the disk refuses.
    """
    path = root / RESULTS_NAME
    if not _changes(root, path):
        return path
    try:
        with exclusive(root / f".{RESULTS_NAME}.lock", str(path)):
            found = _changes(root, path)
            if found:
                _rebuild(path, *found)
    except StoreError:
        if not path.is_file():
            raise
        logger.warning("another process refreshes %s; this is what it held before", path)
    return path


def user_query(root: Path, query: str, *, limit: int) -> QueryResult:
    """One SELECT of a user over the refreshed database of a store; nothing else can be read or changed.

    Raises
        EvaluationError: no scores, several statements, a statement that does not read, or an SQL error.
    """
    path = refresh(root)
    with _errors_of_evaluation():
        return run_user_query(path, query, limit=limit)


def rows(path: Path, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows of one of our own queries.

    Raises
        EvaluationError: the file cannot be read.
    """
    with _errors_of_evaluation(), open_read_only(path) as connection:
        return fetch_all(connection, query, values)


Changes = tuple[list[tuple[Artefact, str]], list[str]]
"""What to add, with the digest of its manifest; and the references to drop."""


def _changes(root: Path, path: Path) -> Changes | None:
    """What the database lacks and what it holds in vain; None when it is up to date."""
    known = _known(path)
    found = _published(root)
    if not found:
        raise EvaluationError(
            f"there are no scores in {root}; make some with icl-embed eval run, or name another --store"
        )
    store = Store(root)
    added = []
    for reference, (artefact, digest) in found.items():
        if known is not None and known.get(reference) == digest:
            continue
        damage = store.damage(artefact.stage, artefact.fingerprint)
        if damage:
            logger.warning("%s is left out: %s", reference, damage)
        else:
            added.append((artefact, digest))
    stale = [name for name, digest in (known or {}).items() if found.get(name, (None, ""))[1] != digest]
    return (added, stale) if added or stale or known is None else None


def _published(root: Path) -> dict[str, tuple[Artefact, str]]:
    found = {}
    for manifest in sorted((root / STAGE).glob(f"*/{MANIFEST_NAME}")):
        if "." not in manifest.parent.name:
            artefact = Artefact(STAGE, manifest.parent.name, manifest.parent)
            found[artefact.reference] = (artefact, sha256_of(manifest))
    return found


def _known(path: Path) -> dict[str, str] | None:
    """Digest of each artefact in the database; None when it has to be built from nothing."""
    if not path.is_file():
        return None
    try:
        with open_read_only(path) as connection:
            if fetch_all(connection, "SELECT version FROM version") != [(VERSION,)]:
                raise PoolError("it was written by another version")
            return dict(fetch_all(connection, "SELECT reference, manifest FROM artefacts"))
    except PoolError as error:
        logger.warning("%s is built again: %s", path, error)
        return None


def _rebuild(path: Path, added: list[tuple[Artefact, str]], stale: list[str]) -> None:
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        is_new = _known(path) is None
        if not is_new:
            shutil.copyfile(path, partial)
        with _errors_of_evaluation(), open_for_build(partial) as connection:
            connection.execute("BEGIN")
            if is_new:
                for statement in create_statements():
                    connection.execute(statement)
            for reference in stale:
                _delete(connection, reference)
            for artefact, digest in added:
                _add(connection, artefact, digest)
            connection.execute("COMMIT")
        partial.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}; nothing was changed") from error
    finally:
        partial.unlink(missing_ok=True)


def _delete(connection: Connection, reference: str) -> None:
    for table in TABLES:
        connection.execute(f'DELETE FROM "{table}" WHERE reference = ?', [reference])  # noqa: S608 - ours


def _add(connection: Connection, artefact: Artefact, digest: str) -> None:
    try:
        found = tables_of(artefact, digest)
    except (EvaluationError, StoreError) as error:
        logger.warning("%s is left out: %s", artefact.reference, error)
        return
    for name, table in found.items():
        with arrow_input(connection, "incoming", table):
            connection.execute(f'INSERT INTO "{name}" SELECT * FROM incoming')  # noqa: S608 - ours


@contextmanager
def _errors_of_evaluation() -> Iterator[None]:
    """The door to DuckDB is the pool's; what it refuses here is no pool."""
    try:
        yield
    except PoolError as error:
        raise EvaluationError(str(error)) from error
