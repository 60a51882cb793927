"""Encoding on several devices: each batch goes to whoever is free.

The caller tokenises, and plans the same batches as a single process would, so the results are those of one
process, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icl_embed.config import EngineConfig, EngineName
from icl_embed.engines.engine import Work, checked_devices, device_of, spread_over, start_engine
from icl_embed.errors import ModelError
from icl_embed.examples import Example
from icl_embed.model.backbone import load_description
from icl_embed.model.compiled import CompiledTask, plan_task
from icl_embed.model.dtype import resolve_device, resolve_dtype
from icl_embed.model.fingerprints import Fingerprints
from icl_embed.model.settings import EmbedderSettings, build_prompts, read_settings
from icl_embed.model.text_encoder import TextEncoder
from icl_embed.prompts import Tokens

if TYPE_CHECKING:
    from icl_embed.model.embedder import Embedder


@dataclass(frozen=True)
class Batch:
    """Token lists, and the task (without states) whose prefix they continue."""

    rows: list[Tokens]
    task: CompiledTask | None


@dataclass(frozen=True)
class EncodeWork(Work):
    """Batches in, vectors [R, D] out."""

    folder: Path
    dtype: str
    settings: EmbedderSettings
    name = "encoder"

    def open(self, device: str, threads: int) -> Callable[[Batch], NDArray[np.float32]]:
        """Load the model; each worker keeps the states of the tasks that it met last."""
        from icl_embed.model.embedder import Embedder
        from icl_embed.model.memory import Recent

        embedder = Embedder.load(self.folder, device=device, dtype=self.dtype, settings=self.settings)
        tasks: Recent[CompiledTask] = Recent(embedder.task_cache_bytes, lambda task: task.num_bytes)

        def encode(batch: Batch) -> NDArray[np.float32]:
            task = batch.task
            if task is not None:
                key = (tuple(task.prefix.tokens), task.prefix.demonstrations)
                task = tasks.get(key, partial(embedder.with_states, task))
            vectors: NDArray[np.float32] = embedder.embed_batch(batch.rows, task).cpu().numpy()
            return vectors

        return encode


def without_states(task: CompiledTask) -> CompiledTask:
    """What a worker needs to know of a task: it encodes the prefix itself, sooner than megabytes arrive."""
    return replace(task, states=None)


class EncoderPool(TextEncoder):
    """An encoder that works on several devices; the model is loaded once on each.

    Use it in a ``with`` block, in one thread, in a script under ``if __name__ == "__main__":`` (each worker
    imports the script). After an error the pool is closed: no worker is left behind, start a new one.

    Examples::

        with EncoderPool(folder, ["cuda:0", "cuda:1"]) as pool:
            vectors = pool.encode_passages(passages)
    """

    def __init__(
        self,
        folder: Path | str,
        devices: Sequence[str],
        *,
        dtype: str = "auto",
        settings: EmbedderSettings | None = None,
        engine: EngineName = "local",
    ) -> None:
        """Start a worker per device and wait until every one has loaded the model.

        Parameters
            engine: ``ray`` starts them on a cluster (``icl_embed.engines``), whose nodes must see the folder.

        Raises
            ConfigError: no device is named.
            ModelError: the folder cannot be loaded, or a worker dies.
        """
        self.folder = Path(folder)
        self._config, tokenizer = load_description(self.folder)
        self.settings = settings or read_settings(self.folder)
        self.prompts = build_prompts(tokenizer, self.settings, self._config)
        # a cluster's devices are not known before it is asked: as on this machine, so that no engine differs
        self.dtype = _common_dtype(dtype, checked_devices(devices) or ("auto",))
        work = EncodeWork(self.folder.resolve(), self.dtype, self.settings)
        self._engine = start_engine(engine, work, devices)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self.close(at_once=error is not None)

    def __getstate__(self) -> dict[str, Any]:
        """Raises ModelError: processes cannot be copied."""
        raise ModelError(
            "an encoder pool holds processes and cannot be pickled or copied; start one where it is needed, "
            "from its folder"
        )

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Vectors of several devices meet in main memory."""
        return torch.device("cpu")

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """Of the model's files; read when first needed."""
        return Fingerprints.of_folder(self.folder)

    def close(self, *, at_once: bool = False) -> None:
        """End the workers: after their batch, or at once."""
        self._engine.close(at_once=at_once)

    def _checked_task(self, task: CompiledTask) -> CompiledTask:
        bare = without_states(task)
        bare.refuse_other_model(self.fingerprints, self.settings, dtype=self.dtype, config=self._config)
        return bare

    def _recent_task(self, instruction: str, examples: Sequence[Example]) -> CompiledTask:
        # Each worker keeps what it encoded; here it is a matter of tokens.
        return plan_task(
            self.prompts,
            instruction,
            examples,
            Fingerprints.unsaved(),
            settings=self.settings,
            dtype=self.dtype,
        )

    def _embed_batches(
        self, batches: Iterable[list[Tokens]], task: CompiledTask | None
    ) -> Iterator[tuple[int, Tensor]]:
        for number, vectors in self._engine.run(Batch(rows, task) for rows in batches):
            yield number, torch.tensor(vectors)  # what Ray hands out may not be written to


def open_encoder(
    folder: Path,
    engine: EngineConfig,
    *,
    device: str = "auto",
    dtype: str = "auto",
    settings: EmbedderSettings | None = None,
) -> Embedder | EncoderPool:
    """A model on the engine's devices; where that is one device of this machine, in this process.

    Raises
        ConfigError, ModelError: as ``EncoderPool`` and ``Embedder.load``.
    """
    from icl_embed.model.embedder import Embedder

    devices = spread_over(engine, device)
    if devices is None:
        return Embedder.load(folder, device=device_of(engine, device), dtype=dtype, settings=settings)
    return EncoderPool(folder, devices, dtype=dtype, settings=settings, engine=engine.name)


def _common_dtype(name: str, devices: Sequence[str]) -> str:
    """One number format for all devices, so that a vector does not depend on who made it."""
    found = {resolve_dtype(name, resolve_device(device)) for device in devices}
    return str(found.pop()).removeprefix("torch.") if len(found) == 1 else "float32"
