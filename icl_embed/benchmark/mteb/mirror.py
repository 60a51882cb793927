"""Which folder of a mirror serves a task; a task that none serves is reported, never skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icl_embed.benchmark.mteb.mirror_folder import FolderSet, contents_of
from icl_embed.benchmark.mteb.mirror_hub import HubFolder, find_hub_folder
from icl_embed.errors import DataError, MissingTaskError

Source = FolderSet | HubFolder


def names_of_folders(mirror: Path) -> dict[str, str]:
    """The folders of a mirror with a manifest → the task that each is a copy of, else its own name.

    A folder whose manifest cannot be read keeps its name: opening it says what is wrong.
    """
    found = contents_of(mirror)
    return {**{name: name for name in found.unreadable}, **{one.name: _name_of(one) for one in found.sets}}


def served_names(mirror: Path) -> list[str]:
    """Every name that a mirror's manifests serve: tasks of mteb and local sets, sorted."""
    return sorted({_name_of(one) for one in contents_of(mirror).sets})


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
