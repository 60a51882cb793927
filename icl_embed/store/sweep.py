"""Freeing space: what nothing that is kept needs, and what crashes left behind.

Kept are

- what a running build makes or reads: its lock is held, and its lock file names its inputs;
- the newest reports and the last accepted scores of each preset, every score and every study;
- the models of accepted scores, of benchmarks and of studies, and of every label the newest embedder and the
  newest reranker; scores on own cards, which every pipeline run makes, hold no old model back;
- all that these were made from: marks such as "trained on" and model cards are read off it;
- what is younger than a day: a run that is between two stages may be about to use it;
- the work folder of an unfinished build, with the checkpoints that its next run goes on from.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from icl_embed.errors import StoreError
from icl_embed.store.artefact import Artefact, Store
from icl_embed.store.lineage import reachable
from icl_embed.store.lock import exclusive, holder_of
from icl_embed.store.manifest import read_manifest

logger = logging.getLogger(__name__)

MODELS = ("embedder", "reranker")
SCORE, STUDY, BENCHMARK = "score", "study", "task-data"
ACCEPTED = "accepted-scores"
MIN_AGE_HOURS = 24.0


@dataclass(frozen=True)
class Found:
    """A folder that gc looked at.

    Attributes
        goes: whether it can be deleted.
        reason: why it can go, or why it stays.
    """

    path: Path
    goes: bool
    reason: str
    bytes: int

    @property
    def fingerprint(self) -> str:
        """Of the artefact that the folder is, or is a remainder of."""
        return self.path.name.partition(".")[0]


def survey(
    store: Store, *, keep_reports: int, min_age_hours: float = MIN_AGE_HOURS, unfinished: bool = False
) -> list[Found]:
    """Every artefact that nothing kept needs, and every folder that a build left or works in.

    Without any report no artefact is unneeded: there is nothing yet to judge it by.

    Parameters
        keep_reports: newest reports of each preset.
        min_age_hours: younger artefacts stay.
        unfinished: work folders of builds that do not run may go.
    """
    artefacts = list(store.artefacts())
    reports = _newest_per_label((one for one in artefacts if one.stage == "report"), keep_reports)
    needed = _needed(store, artefacts, reports) if reports else {one.reference for one in artefacts}
    youngest = time.time() - min_age_hours * 3600
    found = [_judge(store, one, youngest) for one in artefacts if one.reference not in needed]
    return found + [_judge_remainder(store, path, unfinished=unfinished) for path in _remainders(store)]


def remove(store: Store, found: Iterable[Found]) -> int:
    """Delete what can go; returns the bytes freed.

    Each folder is renamed before it is emptied, so that readers see it whole or not at all, and under its
    artefact's lock, so that no build that began after the survey loses it.
    """
    freed = 0
    for one in found:
        if not one.goes:
            continue
        stage = one.path.parent.name
        try:
            with exclusive(store.lock_of(stage, one.fingerprint), f"{stage}/{one.path.name}"):
                if f"{stage}/{one.path.name}" in _read_by_running_builds(store):
                    continue
                aside = one.path.with_name(f"{one.fingerprint}.removed-{time.time_ns()}")
                one.path.rename(aside)
                shutil.rmtree(aside)
        except StoreError as error:
            logger.warning("kept: %s", error)
        except OSError as error:
            logger.warning("%s is not deleted: %s", one.path, error.strerror or error)
        else:
            freed += one.bytes
    return freed


def _needed(store: Store, artefacts: list[Artefact], reports: list[Artefact]) -> set[str]:
    accepted = _newest_per_label((one for one in artefacts if one.stage == ACCEPTED), 1)
    roots = [*reports, *(one for one in artefacts if one.stage == STUDY or _is_benchmark_score(one))]
    for stage in MODELS:
        roots += _newest_per_label((one for one in artefacts if one.stage == stage), 1)
    read = _read_by_running_builds(store) | {name for one in accepted for name in _models_of(one)}
    roots += [one for one in artefacts if one.reference in read]
    measured = {one.reference for one in artefacts if one.stage == SCORE}
    return reachable(store, roots) | measured | {one.reference for one in accepted}


def _is_benchmark_score(artefact: Artefact) -> bool:
    return artefact.stage == SCORE and BENCHMARK in artefact.manifest.key["inputs"]


def _models_of(accepted: Artefact) -> Iterator[str]:
    """The models that were scored; accepted scores hold copies of all else that they need."""
    for evaluation in accepted.manifest.key["settings"].get("evaluations", {}).values():
        if "model" in evaluation["inputs"]:
            yield evaluation["inputs"]["model"]


def _newest_per_label(artefacts: Iterable[Artefact], keep: int) -> list[Artefact]:
    groups: dict[str, list[Artefact]] = {}
    for artefact in artefacts:
        groups.setdefault(artefact.manifest.label, []).append(artefact)
    return [one for group in groups.values() for one in group[-keep:]]


def _read_by_running_builds(store: Store) -> set[str]:
    holders = [holder for path in store.root.glob("*/.*.lock") if (holder := holder_of(path))]
    return {reference for holder in holders for reference in holder.inputs.values()}


def _judge(store: Store, artefact: Artefact, youngest: float) -> Found:
    holder = holder_of(store.lock_of(artefact.stage, artefact.fingerprint))
    if holder:
        return Found(artefact.path, False, f"in use by {holder}", artefact.manifest.num_bytes)
    created = datetime.strptime(artefact.manifest.created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    if created.timestamp() > youngest:
        return Found(artefact.path, False, "new; a run may be about to use it", artefact.manifest.num_bytes)
    return Found(artefact.path, True, "nothing that is kept needs it", artefact.manifest.num_bytes)


def _remainders(store: Store) -> Iterator[Path]:
    """Folders beside the artefacts: ``.work``, ``.partial-PID``, ``.damaged-TIME``, ``.removed-TIME``."""
    for path in sorted(store.root.glob("*/*.*")):
        if path.is_dir() and not path.name.startswith("."):
            yield path


def _judge_remainder(store: Store, path: Path, *, unfinished: bool) -> Found:
    stage, size = path.parent.name, _size(path)
    fingerprint, _, kind = path.name.partition(".")
    holder = holder_of(store.lock_of(stage, fingerprint))
    if holder:
        return Found(path, False, f"in use by {holder}", size)
    if kind.startswith("damaged-"):
        return Found(path, True, "damaged, and moved aside when it was rebuilt", size)
    if kind == "work" and not store.path_of(stage, fingerprint).exists():
        step = _last_checkpoint(path)
        what = (
            f"checkpoints of an unfinished training, resumes at step {step}" if step else "unfinished build"
        )
        return Found(path, unfinished, what, size)
    return Found(path, True, "left by a crash", size)


def _last_checkpoint(work: Path) -> int:
    """The step of the newest checkpoint in a work folder; 0 without any."""
    steps = [0]
    for path in work.glob("checkpoints/*"):
        try:
            steps.append(int(read_manifest(path).counts["step"]))
        except (StoreError, KeyError):  # half written: the training will not resume from it either
            continue
    return max(steps)


def _size(folder: Path) -> int:
    """Bytes below a folder that somebody may be writing to."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total
