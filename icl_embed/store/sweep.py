"""Freeing space: what no kept report needs, and what crashes left behind."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from icl_embed.store.artefact import Artefact, Store
from icl_embed.store.files import files_below
from icl_embed.store.lineage import reachable

KEPT_STAGES = {"score", "study"}


@dataclass(frozen=True)
class Garbage:
    """A folder that can go, and why."""

    path: Path
    reason: str
    bytes: int


def find_garbage(store: Store, *, keep_reports: int) -> list[Garbage]:
    """Everything that the newest ``keep_reports`` reports of each preset were not made from.

    Scores and studies of benchmarks are kept: they are small, and no report holds them. Without any report
    nothing is unreachable: only leftovers of crashes are listed.
    """
    artefacts = list(store.artefacts())
    reports: dict[str, list[Artefact]] = {}
    for artefact in artefacts:
        if artefact.stage == "report":
            reports.setdefault(artefact.manifest.label, []).append(artefact)
    kept = [one for group in reports.values() for one in group[-keep_reports:]]
    # What the next re-evaluation compares with; they hold copies of all they need.
    accepted = {one.manifest.label: one.reference for one in artefacts if one.stage == "accepted-scores"}
    measured = {one.reference for one in artefacts if one.stage in KEPT_STAGES}
    needed = reachable(store, kept) | set(accepted.values()) | measured
    unneeded = [artefact.path for artefact in artefacts if kept and artefact.reference not in needed]
    leftovers = [path for path in store.root.glob("*/*.*") if path.is_dir()]
    return [
        *(Garbage(path, "not part of a kept report", _size(path)) for path in unneeded),
        *(Garbage(path, "left by a crash or damaged", _size(path)) for path in sorted(leftovers)),
    ]


def remove(garbage: list[Garbage]) -> int:
    """Delete the folders; returns the bytes freed."""
    for one in garbage:
        shutil.rmtree(one.path)
    return sum(one.bytes for one in garbage)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in files_below(folder))
