"""A mirror folder in our own format: one folder per set, plain or compressed JSON lines, and a manifest.

``manifest.json`` says what the set is and what its files must hold::

    {"task_type": "classification",
     "mteb": {"task": "Banking77Classification", "equality": "exact"},
     "files": {"test.jsonl.gz": {"rows": 3080, "sha256": "…", "sha256_uncompressed": "…"}}}

``mteb`` may be null: then the set is a local task under its folder's name. ``task`` may name a subset
(``XQuADRetrieval (subset en)``) and carry a remark (``CosQA (CoIR)``). An ``equality`` that begins with
"related" or "source of" says that the set is no copy of that task, so it is never served as the task.
``files`` and an ``instruction`` are optional; every count and hash that is given is checked.

Retrieval: ``corpus.jsonl`` (_id, title, text), ``queries.jsonl`` (_id, text), ``qrels/<split>.tsv``. Others:
``<split>.jsonl`` with text, label, label_text (classification, clustering); sentence1, sentence2 and score
(sts) or label (pair classification); query, positive, negative (reranking).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

from icl_embed.config import Kind
from icl_embed.corpus.read import read_table
from icl_embed.corpus.records import Record
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import COMPRESSED_ENDINGS, Fetched
from icl_embed.store.files import sha256_of

MANIFEST_NAME = "manifest.json"
NO_COPY = ("related", "source of")
ENDINGS = tuple(plain + packed for plain in (".jsonl", ".tsv") for packed in (*COMPRESSED_ENDINGS, ""))

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderSet:
    """One set of a mirror, as its manifest describes it.

    Attributes
        name: the folder's name.
        task: the mteb task that it is a copy of; "" for none.
        subset: the task's subset that it holds; "" for a task without subsets.
        equality: how far the copy is equal, in the manifest's words.
        related_to: an mteb task that it is not a copy of, but that the manifest names.
        files: file name → what the manifest promises of it.
    """

    folder: Path
    name: str
    kind: Kind
    task: str = ""
    subset: str = ""
    equality: str = ""
    related_to: str = ""
    instruction: str = ""
    licence: str = ""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def splits(self) -> list[str]:
        """The splits that have a file."""
        found = self.folder.glob("qrels/*.tsv*" if self.kind == "retrieval" else "*.jsonl*")
        return sorted({_stem(path.name) for path in found if path.name.endswith(ENDINGS)})

    def read(self, stem: str) -> list[Record]:
        """All records of a file, named without its ending (``test``, ``qrels/test``); empty if there is none.

        Raises
            DataError: a record is not readable as UTF-8 JSON (judgements: as BEIR or TREC write them), the
                rows are not as many or the bytes are not those that the manifest promises.
            SourceError: a compressed file is damaged.
        """
        existing = [stem + ending for ending in ENDINGS if (self.folder / (stem + ending)).is_file()]
        if not existing:
            return []
        name = existing[0]
        shown = f"{self.name}/{name}"
        path = self.folder / name
        self._check_bytes(name, path)
        table = Table(files=(shown,), format="qrels" if stem.startswith("qrels/") else "auto")
        records, _ = read_table([Fetched(shown, path)], table)
        promised = self._promised(name).get("rows")
        if promised is not None and promised != len(records):
            raise DataError(
                f"{path} has {len(records)} rows, its manifest promises {promised}; "
                "copy the file again, or correct the manifest if the file is right"
            )
        return records

    def _promised(self, name: str) -> Mapping[str, Any]:
        return self.files.get(name) or self.files.get(f"{name}.gz") or {}

    def _check_bytes(self, name: str, path: Path) -> None:
        field_name = "sha256" if name in self.files else "sha256_uncompressed"
        promised = self._promised(name).get(field_name)
        if promised and sha256_of(path) != promised:
            raise DataError(
                f"{path} has another {field_name.replace('_', ' ')} than its manifest promises "
                f"({str(promised)[:12]}…); copy the file again, or write a manifest for the changed data"
            )


@dataclass(frozen=True)
class Contents:
    """What a mirror's folders with a manifest are.

    Attributes
        unreadable: folder name → why its manifest cannot be read; for those who ask for this set.
    """

    sets: tuple[FolderSet, ...]
    unreadable: Mapping[str, str]


def contents_of(mirror: Path) -> Contents:
    """Every set with a manifest in a mirror: the folder itself, or each folder in it."""
    folders = [mirror, *sorted(path for path in mirror.iterdir() if path.is_dir())] if mirror.is_dir() else []
    sets, unreadable = [], {}
    for folder in folders:
        try:
            if (folder / MANIFEST_NAME).exists():
                sets.append(read_manifest(folder))
        except (DataError, OSError) as error:
            unreadable[folder.resolve().name] = str(error)
            _tell_once(str(error))
    return Contents(tuple(sets), unreadable)


@cache
def _tell_once(reason: str) -> None:
    logger.warning("a folder of the mirror is left out: %s", reason)


def read_manifest(folder: Path) -> FolderSet:
    """The set that a folder's manifest describes.

    Raises
        DataError: not JSON, or a field is missing or of the wrong type; the message names it.
    """
    path = folder / MANIFEST_NAME
    try:
        fields = json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; expected a JSON object in UTF-8") from error
    if not isinstance(fields, dict) or fields.get("task_type") not in get_args(Kind):
        found = fields.get("task_type") if isinstance(fields, dict) else type(fields).__name__
        raise DataError(f"{path}: task_type must be one of {', '.join(get_args(Kind))}, found {found!r}")
    files = fields.get("files") or {}
    if not isinstance(files, dict) or not all(isinstance(facts, dict) for facts in files.values()):
        raise DataError(f"{path}: files must map each file name to its rows and sha256")
    task, subset, equality = _mteb_part(path, fields.get("mteb"))
    is_copy = not equality.startswith(NO_COPY)
    return FolderSet(
        folder=folder,
        name=folder.resolve().name,
        kind=cast("Kind", fields["task_type"]),
        task=task if is_copy else "",
        subset=subset,
        equality=equality,
        related_to="" if is_copy else task,
        instruction=str(fields.get("instruction") or ""),
        licence=str(fields.get("licence") or ""),
        files=files,
    )


def _mteb_part(path: Path, given: Any) -> tuple[str, str, str]:
    if given is None:
        return "", "", ""
    if not isinstance(given, dict) or not isinstance(given.get("task"), str):
        raise DataError(
            f'{path}: mteb must be null or an object with the name of its "task", found {given!r}'
        )
    task, _, remark = given["task"].partition(" (")
    subset = re.fullmatch(r"subset (.+)\)", remark)
    return task, subset[1] if subset else "", str(given.get("equality") or "not stated")


def _stem(name: str) -> str:
    return next(name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending))
