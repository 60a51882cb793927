"""Checkpoints that are whole or do not exist.

Each is a folder ``step-000123`` published like every artefact: written under a temporary name by all ranks,
a barrier, then the manifest, then one rename. DeepSpeed's own ``latest`` file is neither written nor read,
because it can name a step whose shards were never finished.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from icl_embed.errors import StoreError, TrainingError
from icl_embed.launch.worker import beat
from icl_embed.store.artefact import publish
from icl_embed.store.key import StageKey, explain_difference
from icl_embed.store.manifest import describe, find_damage, read_manifest
from icl_embed.train.distributed import Place
from icl_embed.train.engine import Engine

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one training run."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], keep: int) -> None:
        self.folder = folder
        self.identity = dict(identity)
        self.keep = keep

    def save(self, engine: Engine, step: int, place: Place, carried: Mapping[str, Any] | None = None) -> None:
        """Publish the state after ``step`` updates; every rank must call it.

        Parameters
            carried: JSON of whoever else goes on from here, for ``restore``.
        """
        final = self.folder / f"step-{step:06d}"
        partial = self.folder / f"step-{step:06d}.partial"
        if place.is_first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        place.wait()
        engine.save(partial)
        beat()
        place.wait()
        if place.is_first and not final.exists():
            key = StageKey("checkpoint", 1, {"step": step, "ranks": place.world_size, **self.identity})
            publish(partial, final, describe(key, partial, {"step": step, **(carried or {})}, 0.0))
            self._forget_old()
        place.wait()

    def restore(self, engine: Engine, place: Place) -> tuple[int, Mapping[str, Any]]:
        """Load the newest whole checkpoint.

        Returns
            the number of updates done, 0 when there is none, and what ``save`` was given to carry.

        Raises
            TrainingError: the newest whole checkpoint belongs to another configuration, or checkpoints exist
                but none is whole.
        """
        damaged = []
        for step, folder in self._newest_first():
            try:
                manifest = read_manifest(folder)
                damage = find_damage(folder, manifest)
            except StoreError as error:
                damage = str(error)
            if damage:
                logger.warning("checkpoint %s is ignored: %s", folder.name, damage)
                damaged.append(folder.name)
                continue
            ranks = self._ranks_of(manifest.key["settings"], step)
            if ranks != place.world_size and place.is_first:
                logger.warning(
                    "the checkpoint of step %d was written by %d ranks, and %d go on: with the same rows, "
                    "but sums in another order, so the weights are not bit for bit those of either",
                    step,
                    ranks,
                    place.world_size,
                )
            engine.load(folder, ranks=ranks)
            return step, manifest.counts
        if damaged:
            raise TrainingError(
                f"checkpoints exist in {self.folder} but none is whole ({', '.join(damaged)}); "
                "delete the folder to start from scratch"
            )
        return 0, {}

    @property
    def steps(self) -> list[int]:
        """The steps that a run may resume after, the newest first."""
        return [step for step, _ in self._newest_first()]

    def _ranks_of(self, found: Mapping[str, Any], step: int) -> int:
        """How many ranks wrote the checkpoint; raises TrainingError if they were of another run."""
        ranks = found.get("ranks")
        changes = explain_difference({"step": step, "ranks": ranks, **self.identity}, found)
        if changes or not isinstance(ranks, int):
            raise TrainingError(
                "the checkpoint was written by a different run; resuming would not give the same weights:\n  "
                + "\n  ".join(changes)
            )
        return ranks

    def _newest_first(self) -> Iterator[tuple[int, Path]]:
        folders = sorted(self.folder.glob("step-??????"), reverse=True) if self.folder.is_dir() else []
        for folder in folders:
            yield int(folder.name.removeprefix("step-")), folder

    def _forget_old(self) -> None:
        for _, folder in list(self._newest_first())[self.keep :]:
            shutil.rmtree(folder, ignore_errors=True)
