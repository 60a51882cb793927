"""``<store>/results.duckdb``: every score of a store in tables, with the artefact it came from.

The file is derived from the artefacts and can be deleted at any time. A refresh reads only what is new,
writes a copy and puts it in place with one rename: readers see the old file or the new one, never a lock.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from icl_embed.errors import EvaluationError, PoolError, StoreError
from icl_embed.pool.database import (
    Connection,
    QueryResult,
    arrow_input,
    fetch_all,
    open_for_build,
    open_read_only,
    run_user_query,
)
from icl_embed.results.artefact_rows import tables_of
from icl_embed.results.schema import TABLES, VERSION, create_statements
from icl_embed.store import Artefact, Store
from icl_embed.store.files import sha256_of
from icl_embed.store.lock import exclusive
from icl_embed.store.manifest import MANIFEST_NAME

logger = logging.getLogger(__name__)

RESULTS_NAME = "results.duckdb"
STAGES = ("score", "evaluation")


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
    for stage in STAGES:
        for manifest in sorted((root / stage).glob(f"*/{MANIFEST_NAME}")):
            if "." not in manifest.parent.name:
                artefact = Artefact(stage, manifest.parent.name, manifest.parent)
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
