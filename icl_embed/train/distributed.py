"""Where a process stands in a distributed job: its rank, its device, and what it may say to the others."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore, HashStore, Store, TCPStore  # dist exports them untyped

from icl_embed.config import LaunchConfig
from icl_embed.errors import TrainingError
from icl_embed.launch.nodes import address_to
from icl_embed.launch.worker import MEETING, beat
from icl_embed.model.cpu.kernels import keep_products_of_training
from icl_embed.model.dtype import resolve_device, resolve_dtype

Result = TypeVar("Result")
MEET_SECONDS = 60


@dataclass(frozen=True)
class Place:
    """This process among the ranks of a job."""

    rank: int
    world_size: int
    device: torch.device
    dtype: torch.dtype

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the files."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """This rank's slice of ``count`` items; the ranks' slices are equal and in rank order."""
        size = count // self.world_size
        return range(self.rank * size, (self.rank + 1) * size)

    def sum(self, values: Tensor) -> Tensor:
        """The element-wise sum over ranks."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def largest(self, count: int) -> int:
        """The largest of the ranks' counts."""
        counts = torch.tensor([count], device=self.device)
        if self.world_size > 1:
            dist.all_reduce(counts, op=dist.ReduceOp.MAX)
        return int(counts.item())

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all ranks in rank order, [W·B, …]; gradients flow back to the rank that sent them."""
        if self.world_size == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self)  # type: ignore[no-untyped-call]
        return gathered

    def first_then_all(self, work: Callable[[], Result]) -> Result:
        """What ``work`` gives, the first rank going first: it leaves files that the others find.

        The work folder is one that all nodes see.
        """
        found = [work()] if self.is_first else []
        self.wait()
        return found[0] if found else work()

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    """All-gather whose backward adds up every rank's gradient for a row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, place: Place) -> Tensor:
        ctx.place, ctx.size = place, len(rows)
        parts = [torch.empty_like(rows) for _ in range(place.world_size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous()
        dist.all_reduce(total)
        start = ctx.place.rank * ctx.size
        return total[start : start + ctx.size], None


@contextmanager
def enter(config: LaunchConfig, *, dtype: str) -> Iterator[Place]:
    """Join the job that the launcher, or torchrun, describes in the environment; alone, a job of one.

    The dtype is probed by rank 0 and told to the others, so that all ranks compute alike.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    keep_products_of_training()
    torch.set_num_threads(config.threads or max(1, available_cores() // local_size))
    where = resolve_device(config.device)
    if where.type == "cuda":
        where = torch.device("cuda", local_rank)
        torch.cuda.set_device(where)
    # Ranks wait for each other longer than the launcher waits for all: it can tell where they stand.
    patience = timedelta(seconds=2 * config.stall_seconds) if config.stall_seconds else timedelta(days=7)
    _join(rank, world_size, "nccl" if where.type == "cuda" else "gloo", patience)
    beat()
    try:
        choice = [resolve_dtype(dtype, where)] if rank == 0 else [None]
        if world_size > 1:
            dist.broadcast_object_list(choice, src=0)
        yield Place(rank, world_size, where, choice[0] or torch.float32)
    finally:
        dist.destroy_process_group()


def _join(rank: int, world_size: int, backend: str, patience: timedelta) -> None:
    # DeepSpeed wants a process group even for one rank; a lone process meets itself in memory.
    store: Store
    if world_size == 1:
        store = HashStore()
    elif MEETING in os.environ:
        store = FileStore(os.environ[MEETING], world_size)
    else:
        store = _store_between_nodes(rank, world_size)
    store.set_timeout(patience)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=patience)


def _store_between_nodes(rank: int, world_size: int) -> Store:
    """The first rank listens, the others find it.

    Raises
        TrainingError: it cannot be reached, or cannot listen.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    listens = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # torchrun's agent would
    try:
        return TCPStore(host, port, world_size, listens, timedelta(seconds=MEET_SECONDS))
    except RuntimeError as error:
        what = "listen at" if listens else f"reach, within {MEET_SECONDS} s, the first rank at"
        raise TrainingError(
            f"rank {rank} on {socket.gethostname()} ({address_to(host, port)}) cannot {what} {host}:{port}: "
            f"{str(error).splitlines()[0]}. launch.rendezvous must be an address of the first node, with a "
            "free port that the other nodes may connect to"
        ) from error


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))
