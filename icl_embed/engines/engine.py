"""What every engine promises: jobs go to whichever worker is free, results come back with their numbers.

An engine knows nothing of models. A ``Work`` says how a worker opens one and what it makes of a job; both
travel to the workers by pickle, so they hold paths and settings, never a loaded model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

from icl_embed.config import EngineConfig, EngineName
from icl_embed.errors import ConfigError


class Work(ABC):
    """What the workers of an engine do.

    Attributes
        name: of a worker, in messages: ``encoder``, ``teacher``.
    """

    name: str

    @abstractmethod
    def open(self, device: str, threads: int) -> Callable[[Any], Any]:
        """Load what is needed on a device; returns the function from a job to its result.

        Parameters
            threads: of torch on a CPU; 0 leaves torch's own choice.

        Raises
            IclEmbedError: it cannot be loaded.
        """


class Engine(ABC):
    """Workers that have opened a work. Use it in a ``with`` block; after an error it is closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self.close(at_once=error is not None)

    @abstractmethod
    def run(self, jobs: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """The number of each job with its result, in any order; few jobs are asked for ahead of the workers.

        Raises
            ModelError: a worker failed, and why.
        """

    @abstractmethod
    def close(self, *, at_once: bool = False) -> None:
        """End the workers: after their job, or at once."""


def start_engine(name: EngineName, work: Work, devices: Sequence[str]) -> Engine:
    """Workers of an engine, one per device, once all have opened the work.

    Parameters
        devices: names such as ``cuda:0`` or ``cpu``; for ``ray`` none means every GPU of the cluster, or one
            worker per node where there is none.

    Raises
        ConfigError: no or unknown devices, or an engine that is not installed.
        ModelError: the work cannot be opened, or a worker dies.
    """
    devices = checked_devices(devices)
    if name == "ray":
        from icl_embed.engines.ray_cluster import RayEngine

        return RayEngine(work, devices)
    from icl_embed.engines.local import LocalEngine

    return LocalEngine(work, devices)


def checked_devices(devices: Sequence[str]) -> tuple[str, ...]:
    """The devices; raises ConfigError if it is one name, whose letters would be taken for devices."""
    if isinstance(devices, str):
        raise ConfigError(f"expected a list of devices such as ['cuda:0', 'cuda:1'], found {devices!r}")
    return tuple(devices)


def spread_over(config: EngineConfig, device: str = "auto") -> tuple[str, ...] | None:
    """The devices of the workers that a stage starts; None where one model in this process will do.

    Parameters
        device: that was asked for by name, which then is the only one.
    """
    if config.name == "ray":
        return config.devices
    if config.devices or device != "auto":
        return config.devices if len(config.devices) > 1 else None
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(f"cuda:{number}" for number in range(count)) if count > 1 else None


def device_of(config: EngineConfig, device: str = "auto") -> str:
    """The one device, where ``spread_over`` says that one will do."""
    return config.devices[0] if config.devices else device
