"""Hugging Face data sets on the disk: a hub cache, or plain folders named like the data sets.

``DIR/datasets--mteb--scifact/snapshots/<revision>/`` (or the same below ``DIR/hub``), ``DIR/mteb/scifact/``
or ``DIR/scifact/``: Parquet or JSON lines with the configs in ``README.md``, as the hub has them. mteb's own
loader reads them; here they are only found, and links out of the mirror refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icl_embed.benchmark.mteb.mirror_folder import MANIFEST_NAME
from icl_embed.errors import DataError
from icl_embed.sources.fetched import COMPRESSED_ENDINGS

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
