"""Build once, verify always: the store's only way to make and read an artefact.

Layout: ``<root>/<stage>/<fingerprint>/`` with a ``manifest.json`` written last. A folder without a valid
manifest does not exist for readers. ``<fingerprint>.work/`` beside it is the builder's scratch space that
survives a crash (training keeps its checkpoints there), and is removed after the artefact is published.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_embed.errors import StoreError
from icl_embed.store.files import fsync_path, refusal, sync_files, write_atomically
from icl_embed.store.key import StageKey
from icl_embed.store.lock import exclusive
from icl_embed.store.manifest import MANIFEST_NAME, Manifest, describe, find_damage, read_manifest

logger = logging.getLogger(__name__)

MAX_WAIT_SECONDS = 12 * 3600.0  # for another process that builds the same artefact: a long training
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
Produce = Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True)
class Artefact:
    """A verified folder in the store."""

    stage: str
    fingerprint: str
    path: Path

    @property
    def reference(self) -> str:
        """``stage/fingerprint``, as ``StageKey.reference``."""
        return f"{self.stage}/{self.fingerprint}"

    @property
    def manifest(self) -> Manifest:
        """The artefact's manifest, read anew."""
        return read_manifest(self.path)


class Store:
    """All artefacts below one root folder."""

    def __init__(self, root: Path) -> None:
        if _ADDRESS.match(str(root)):  # a Path has lost one of the two slashes
            raise StoreError(
                f"a store is a folder on this machine, and {root} is an address; mount it, name the mount"
            )
        self.root = Path(root)

    def path_of(self, stage: str, fingerprint: str) -> Path:
        """Where an artefact is, or would be."""
        return self.root / stage / fingerprint

    def reference_of(self, folder: Path) -> str:
        """``stage/fingerprint`` of an artefact's folder in this store; empty for any other folder."""
        whole = folder.resolve()
        is_mine = whole == self.path_of(whole.parent.name, whole.name).resolve()
        return f"{whole.parent.name}/{whole.name}" if is_mine else ""

    def lock_of(self, stage: str, fingerprint: str) -> Path:
        """The file whose lock the builder of an artefact holds."""
        return self.root / stage / f".{fingerprint}.lock"

    def work_dir(self, key: StageKey) -> Path:
        """The builder's crash-surviving scratch folder."""
        return self.root / key.stage / f"{key.fingerprint}.work"

    def is_valid(self, key: StageKey) -> bool:
        """Whether the artefact exists and every byte of it is as it was written."""
        return not self.damage(key.stage, key.fingerprint)

    def damage(self, stage: str, fingerprint: str) -> str:
        """What is wrong with an artefact; empty when nothing is."""
        folder = self.path_of(stage, fingerprint)
        try:
            return find_damage(folder, read_manifest(folder))
        except StoreError as error:
            return str(error)

    def get(self, stage: str, fingerprint: str) -> Artefact:
        """A verified artefact.

        Raises
            StoreError: missing or damaged.
        """
        damage = self.damage(stage, fingerprint)
        if damage:
            raise StoreError(f"{stage}/{fingerprint}: {damage}; run the flow again to rebuild it")
        return Artefact(stage, fingerprint, self.path_of(stage, fingerprint))

    def build(self, key: StageKey, produce: Produce, *, wait_seconds: float = MAX_WAIT_SECONDS) -> Artefact:
        """Return the artefact of ``key``, producing it if it is missing or damaged.

        ``produce`` fills an empty folder and returns counts for the manifest. A damaged artefact is moved
        aside, never deleted, before it is rebuilt. While another process builds the same artefact this one
        waits for it, and takes what that one publishes.

        Parameters
            wait_seconds: how long to wait for another builder.

        Raises
            StoreError: another process still builds it after the wait, or the disk refuses.
        """
        folder = self.path_of(key.stage, key.fingerprint)
        found = Artefact(key.stage, key.fingerprint, folder)
        if self.is_valid(key):  # needs no lock, so a store that cannot be written can still be used
            return found
        lock = self.lock_of(key.stage, key.fingerprint)
        with exclusive(lock, key.reference, wait_seconds=wait_seconds, inputs=key.inputs):
            try:
                if folder.exists():
                    damage = self.damage(key.stage, key.fingerprint)
                    if not damage:  # made while this process waited
                        return found
                    self._quarantine(folder, damage)
                self._produce(key, produce, folder)
            except (ConnectionError, TimeoutError):  # somebody did not answer: no matter of the disk
                raise
            except OSError as error:
                why = refusal(error, folder, kept="nothing was published")
                raise StoreError(f"cannot write {key.reference}: {why}") from error
            shutil.rmtree(self.work_dir(key), ignore_errors=True)
        return found

    def _produce(self, key: StageKey, produce: Produce, folder: Path) -> None:
        partial = folder.with_name(f"{key.fingerprint}.partial-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        started = time.monotonic()
        try:
            partial.mkdir(parents=True)
            counts = produce(partial)
            publish(partial, folder, describe(key, partial, counts, time.monotonic() - started))
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _quarantine(self, folder: Path, damage: str) -> None:
        aside = folder.with_name(f"{folder.name}.damaged-{time.time_ns()}")
        logger.warning("%s is damaged (%s); moved to %s and rebuilt", folder, damage, aside.name)
        folder.replace(aside)

    def artefacts(self) -> Iterator[Artefact]:
        """Every published artefact, oldest first. Partial, damaged and scratch folders are skipped."""
        found = []
        for path in self.root.glob(f"*/*/{MANIFEST_NAME}"):
            folder = path.parent
            if "." not in folder.name:
                found.append(Artefact(folder.parent.name, folder.name, folder))
        yield from sorted(found, key=lambda artefact: (artefact.manifest.created, artefact.fingerprint))

    def newest(self, stage: str) -> Artefact | None:
        """The artefact of a stage that was published last."""
        found = [artefact for artefact in self.artefacts() if artefact.stage == stage]
        return found[-1] if found else None


def publish(partial: Path, final: Path, manifest: Manifest) -> None:
    """Make a finished folder visible: sync its files, manifest last, one rename, sync the parent."""
    sync_files(partial)
    write_atomically(partial / MANIFEST_NAME, manifest.to_json())
    for folder in [path for path in partial.rglob("*") if path.is_dir()]:
        fsync_path(folder)
    fsync_path(partial)
    partial.replace(final)
    fsync_path(final.parent)
