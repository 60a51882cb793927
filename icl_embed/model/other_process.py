"""A loaded model in another process: pickled there or copied, or inherited by a fork."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from abc import ABC, abstractmethod
from functools import cache
from typing import Any

import torch

from icl_embed.model.cpu.kernels import speed_up, undo_speed_up

logger = logging.getLogger(__name__)


class Portable(ABC):
    """A dataclass around a model that can be pickled and copied.

    Its fields go along, weights included, so that what was changed in memory is kept and no folder is needed
    where it arrives. What ``__post_init__`` makes is made anew, and which kernels are faster is asked again.
    """

    @property
    @abstractmethod
    def _backbone(self) -> Any:
        """The transformers model."""

    @abstractmethod
    def __post_init__(self) -> None:
        """Make what is no field."""

    def __getstate__(self) -> dict[str, Any]:
        fields: Any = self
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(fields)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        undo_speed_up(self._backbone)
        speed_up(self._backbone)
        self.__post_init__()


@dataclasses.dataclass
class _Process:
    is_forked: bool = False  # from one that may have computed with several threads
    has_said_so: bool = False


_here = _Process()


def mind_forks() -> None:
    """To be called before a model computes: a forked child must not wait for threads that it does not have.

    GNU OpenMP keeps the threads that a thread of ours once computed with. A fork copies that memory and none
    of the threads, and the child's next operation on several threads would wait for them for ever. Its main
    thread therefore computes alone; threads that the child starts itself get threads of their own.
    """
    if torch.get_num_threads() > 1:
        _watch_forks()
    if not _here.is_forked or threading.current_thread() is not threading.main_thread():
        return
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
    if not _here.has_said_so:
        _here.has_said_so = True
        logger.warning(
            "this process was forked after a model had computed with several threads, which do not survive "
            "a fork; it computes with one. For more, load models after the fork, or start processes by spawn"
        )


@cache
def _watch_forks() -> None:
    os.register_at_fork(after_in_child=_enter_child)


def _enter_child() -> None:
    _here.is_forked, _here.has_said_so = True, False
    torch.set_num_threads(1)
