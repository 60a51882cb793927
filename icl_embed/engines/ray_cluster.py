"""The engine of many machines: Ray actors, one per GPU of a cluster, or one per node where there is none.

Scheduling, transport and the news of a lost node are Ray's. A job of a lost actor is done again by another,
so what is lost with a node is the job it was at; a job that loses actors again and again is itself at fault.
The cluster is the one that ``RAY_ADDRESS`` names or that runs on this machine; else Ray starts one here.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from icl_embed.engines.engine import Engine, Work
from icl_embed.errors import ConfigError, ModelError
from icl_embed.store.software import refuse_other_software, software

logger = logging.getLogger(__name__)

JOBS_AHEAD = 2  # of an actor: one that it does, and one that is on its way
LOSSES_OF_A_JOB = 3
PATIENCE_SECONDS = 60.0  # for a first worker, and for another one when all are lost
POLL_SECONDS = 1.0


class Actor:
    """A worker on some node."""

    def __init__(self, work: Work, device: str, threads: int) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._do = work.open(device, threads)

    def about(self) -> dict[str, str]:
        """What runs there."""
        return software()

    def do(self, job: Any) -> Any:
        """The result of a job."""
        return self._do(job)


Job = tuple[int, Any]


@dataclass
class _Todo:
    """The jobs of one call: to come, handed out (by what their results will be), and to be done again."""

    worker: str
    coming: Iterator[Job]
    handed: dict[Any, tuple[Any, Job]] = field(default_factory=dict)
    again: deque[Job] = field(default_factory=deque)
    losses: Counter[int] = field(default_factory=Counter)

    def take(self) -> Job | None:
        """The next job; lost ones first."""
        return self.again.popleft() if self.again else next(self.coming, None)

    def put_back(self, job: Job, error: Exception) -> None:
        """To be done again; raises ModelError if it loses one worker after the other."""
        self.losses[job[0]] += 1
        if self.losses[job[0]] == LOSSES_OF_A_JOB:
            raise ModelError(
                f"{LOSSES_OF_A_JOB} {self.worker} workers were lost at the same job: {error}. It probably "
                "needs more memory than a node has; lower batch_tokens"
            ) from error
        self.again.append(job)


class RayEngine(Engine):
    """Actors of a Ray cluster."""

    def __init__(self, work: Work, devices: Sequence[str]) -> None:
        """Raises ConfigError without Ray or with other software, ModelError if nobody opens the work."""
        self._ray, self._work = connected(), work
        self._actors: set[Any] = set()  # that are ready
        self._starting: dict[Any, Any] = {}  # by what each will say of itself
        self._plan_of: dict[Any, tuple[str, int]] = {}
        try:
            for plan in _plans_of(self._ray, devices):
                self._start(plan)
            self._await_one("no worker could be started")
        except BaseException:
            self.close(at_once=True)
            raise

    def run(self, jobs: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """See ``Engine``; each worker has a job and one on the way."""
        if not self._actors and not self._starting:
            raise ModelError(f"the {self._work.name} workers are closed; start new ones")
        todo = _Todo(self._work.name, enumerate(jobs))
        try:
            while self._hand_out(todo):
                ready, _ = self._ray.wait(list(todo.handed), num_returns=1, timeout=POLL_SECONDS)
                for reference in ready:
                    actor, job = todo.handed.pop(reference)
                    try:
                        result = self._ray.get(reference)
                    except self._ray.exceptions.RayActorError as error:
                        self._lose(actor, error)
                        todo.put_back(job, error)
                    else:
                        yield job[0], result
        except self._ray.exceptions.RayTaskError as error:
            self.close(at_once=True)
            raise ModelError(f"a {self._work.name} of the Ray cluster failed: {error.cause!r}") from error
        except BaseException:
            self.close(at_once=True)
            raise

    def close(self, *, at_once: bool = False) -> None:
        """See ``Engine``; the cluster stays."""
        for actor in [*self._actors, *self._starting.values()]:
            self._ray.kill(actor)
        self._actors, self._starting = set(), {}

    def _hand_out(self, todo: _Todo) -> bool:
        """Give every worker what it has room for; False once nothing is left to wait for."""
        self._welcome(0.0)
        load = Counter(actor for actor, _ in todo.handed.values())
        for actor in [one for one in self._actors for _ in range(JOBS_AHEAD - load[one])]:
            if (job := todo.take()) is None:
                break
            todo.handed[actor.do.remote(job[1])] = (actor, job)
        if not todo.handed and todo.again:
            self._await_one("all workers were lost, and no other could be started")
            return self._hand_out(todo)
        return bool(todo.handed)

    def _start(self, plan: tuple[str, int]) -> None:
        device, threads = plan
        needs = {"num_gpus": 1} if device == "cuda" else {"num_cpus": 1}
        remote = self._ray.remote(Actor).options(**needs, max_restarts=0, scheduling_strategy="SPREAD")
        actor = remote.remote(self._work, device, threads)
        self._plan_of[actor] = plan
        self._starting[actor.about.remote()] = actor

    def _await_one(self, else_: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._actors and time.monotonic() < deadline:
            self._welcome(POLL_SECONDS)
        if not self._actors:
            raise ModelError(
                f"{else_} within {PATIENCE_SECONDS:.0f} s; the cluster has {self._ray.cluster_resources()}, "
                f"and {self._ray.available_resources()} of it are free"
            )

    def _welcome(self, patience: float) -> None:
        """Take in workers that have become ready, if they are what we are."""
        if not self._starting:
            return
        ready, _ = self._ray.wait(list(self._starting), num_returns=1, timeout=patience)
        for reference in ready:
            actor = self._starting.pop(reference)
            try:
                theirs = self._ray.get(reference)
            except self._ray.exceptions.RayActorError as error:
                if not self._actors and not self._starting:
                    raise ModelError(f"no {self._work.name} of the Ray cluster can begin: {error}") from error
                logger.warning("a %s of the Ray cluster cannot begin: %s", self._work.name, error)
                continue
            refuse_other_software(theirs, "a node of the Ray cluster")
            self._actors.add(actor)

    def _lose(self, actor: Any, error: Exception) -> None:
        """Forget a lost worker, once, and ask for another in its place."""
        if actor in self._actors:
            logger.warning("a %s was lost, its job goes to another: %s", self._work.name, error)
            self._actors.remove(actor)
            self._start(self._plan_of[actor])


def connected() -> Any:
    """Ray, connected to a cluster.

    Raises
        ConfigError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "this needs the package ray: pip install 'icl-embed[ray]', or use the engine local"
        ) from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.WARNING)
    return ray


def _plans_of(ray: Any, devices: Sequence[str]) -> list[tuple[str, int]]:
    """Device and threads of every worker: of those that were asked for, or of all that the cluster has."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if devices:
        kinds = [device.partition(":")[0] for device in devices]
        if kinds.count("cuda") > gpus:
            raise ConfigError(f"{kinds.count('cuda')} GPUs are asked for, the Ray cluster has {gpus}")
        return [(kind, 1 if kind == "cpu" else 0) for kind in kinds]
    if gpus:
        return [("cuda", 0)] * gpus
    return [("cpu", max(1, int(node.get("CPU", 1)))) for node in nodes]
