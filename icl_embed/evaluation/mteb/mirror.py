"""A mirror: folders in our own form or copies of the hub's, and which of them serves a task.

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

``DIR/datasets--mteb--scifact/snapshots/<revision>/`` (or the same below ``DIR/hub``), ``DIR/mteb/scifact/``
or ``DIR/scifact/``: Parquet or JSON lines with the configs in ``README.md``, as the hub has them. mteb's own
loader reads them; here they are only found, and links out of the mirror refused.
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
from icl_embed.errors import DataError, MissingTaskError
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


DATA_ENDINGS = (".parquet", ".jsonl", ".json", ".csv", ".tsv", ".arrow", *COMPRESSED_ENDINGS)


@dataclass(frozen=True)
class HubFolder:
    """A data set in the hub's layout.

    Attributes
        folder: where ``README.md`` and the data lie.
        revision: of the snapshot; "" for a plain folder, which has none.
    """

    folder: Path
    revision: str = ""


def find_hub_folder(mirror: Path, path: str, revision: str) -> HubFolder | None:
    """The folder of a hub data set (``mteb/scifact``) in a mirror, at a revision if it has it.

    Raises
        DataError: there are several snapshots and none is of this revision, or a file is a link that leaves
            the mirror.
    """
    cached = "datasets--" + path.replace("/", "--")
    for home in (mirror, mirror / "hub"):
        if (home / cached / "snapshots").is_dir():
            return _checked(_snapshot(home / cached, revision), mirror)
    for folder in (mirror / path, mirror / path.rpartition("/")[2]):
        if _holds_data(folder) and not (folder / MANIFEST_NAME).exists():
            return _checked(HubFolder(folder.resolve()), mirror)
    return None


def _snapshot(cached: Path, revision: str) -> HubFolder:
    snapshots = sorted(path.name for path in (cached / "snapshots").iterdir() if path.is_dir())
    main = cached / "refs" / "main"
    named = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    for wanted in (revision, named, snapshots[0] if len(snapshots) == 1 else ""):
        if wanted in snapshots:
            return HubFolder((cached / "snapshots" / wanted).resolve(), wanted)
    raise DataError(
        f"{cached} holds {len(snapshots)} snapshots, none of them the revision {revision} that mteb asks for "
        f"({', '.join(snapshots[:4]) or 'none at all'}); download that revision, or leave only one"
    )


def _holds_data(folder: Path) -> bool:
    return folder.is_dir() and any(path.name.endswith(DATA_ENDINGS) for path in folder.rglob("*"))


def _checked(found: HubFolder, mirror: Path) -> HubFolder:
    root = mirror.resolve()
    for path in found.folder.rglob("*"):
        if not path.resolve().is_relative_to(root):
            raise DataError(f"{path} is a link that leaves the mirror {mirror}; copy the file into it")
    return found


Source = FolderSet | HubFolder


def names_of_folders(mirror: Path) -> dict[str, str]:
    """The folders of a mirror with a manifest → the task that each is a copy of, else its own name.

    A folder whose manifest cannot be read keeps its name: opening it says what is wrong.
    """
    found = contents_of(mirror)
    return {**{name: name for name in found.unreadable}, **{one.name: _name_of(one) for one in found.sets}}


def _name_of(served: FolderSet) -> str:
    task = f"{served.task}[{served.subset}]" if served.subset else served.task
    return task if served.task else served.name


def find_source(mirror: Path, metadata: Any, subset: str) -> Source:
    """The folder that serves an official task: a set with a manifest, else one in the hub's layout.

    Raises
        MissingTaskError: there is none; the reason says what was looked for, and what cannot be read.
        DataError: two sets claim to be the task, or a folder in the hub's layout cannot be chosen.
    """
    found_sets = contents_of(mirror)
    sets = found_sets.sets
    named = [one for one in sets if one.task == metadata.name]
    fitting = [one for one in named if one.subset in ("", subset)]
    if len(fitting) > 1:
        folders = " and ".join(str(one.folder) for one in fitting)
        raise DataError(f"{folders} both say that they are {metadata.name}; leave one of them in the mirror")
    if fitting:
        return fitting[0]
    path, revision = metadata.dataset["path"], metadata.dataset.get("revision", "")
    found = find_hub_folder(mirror, path, revision)
    if found is not None:
        return found
    if named:
        reason = f"the mirror {mirror} has only its subset {', '.join(one.subset for one in named)}"
    elif related := [one for one in sets if one.related_to == metadata.name]:
        reason = f"{related[0].folder} is no copy of it ({related[0].equality})"
    else:
        reason = (
            f"the mirror {mirror} has neither a folder whose manifest names {metadata.name} nor "
            f"datasets--{path.replace('/', '--')} or {path}"
        )
    if found_sets.unreadable:
        unread = "; ".join(found_sets.unreadable.values())
        reason = f"{reason} (or it is in a folder that cannot be read: {unread})"
    raise MissingTaskError(metadata.name, f"{reason}; add it to the mirror, or run it from the hub")


def served_from(source: Source | None, official_revision: str) -> str:
    """Where a task's data come from and how exact they are, for tables and notes."""
    if source is None:
        return "hub"
    if isinstance(source, HubFolder):
        if source.revision == official_revision:
            return "mirror (hub snapshot of the official revision)"
        return f"mirror (hub snapshot {source.revision[:12]})" if source.revision else "mirror (hub layout)"
    return f"mirror ({source.equality})" if source.task else "mirror (local set)"
