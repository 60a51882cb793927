"""The caller's side of a job: start its ranks, stream the first one's log, clean up, explain how it ended.

The ranks of one machine meet through a file: nothing of the job listens on a network. Those of several meet
at an address of the first node, and every node starts and follows its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from icl_embed import errors
from icl_embed.config import LaunchConfig
from icl_embed.errors import IclEmbedError, StoreError, how_it_ended
from icl_embed.launch.nodes import INVITATION_NAME, inviting, node_environment
from icl_embed.launch.output import LINES_KEPT, Output, tail_of
from icl_embed.launch.processes import die_with_parent, is_stopped, reap_orphans, register
from icl_embed.launch.worker import BEAT_NAME, DUMP_SIGNAL, EXIT_STOPPED, MEETING, OUTCOME_NAME, stack_path
from icl_embed.store.files import why_disk_refuses

GRACE_SECONDS = 60  # a stopped job finishes its step and saves before it is killed
PEERS_SECONDS = 20  # what the other ranks have to notice that one is gone
POLL_SECONDS = 0.5
DUMP_SECONDS = 3.0  # for stacks to be written


class WorkerLostError(IclEmbedError):
    """A rank died without saying why (killed, out of memory, node lost); trying again resumes."""


class StalledJobError(IclEmbedError):
    """A job gave no sign of life for too long and was ended; trying again would mostly wait again."""


@dataclass
class _Child:
    """A process of the job: a rank."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass
class _Job:
    """The processes of a job, the first one's output, and what was noticed so far."""

    work_dir: Path
    children: list[_Child] = field(default_factory=list)
    lost: _Child | None = None  # the first that failed

    def first_failure(self) -> _Child | None:
        """The child that failed first; one that was killed before those that only missed it."""
        if self.lost is None:
            failed = [child for child in self.children if child.process.poll()]
            failed.sort(key=lambda child: child.process.returncode >= 0)
            self.lost = failed[0] if failed else None
        return self.lost

    @property
    def is_over(self) -> bool:
        """Whether every process has ended."""
        return all(child.process.poll() is not None for child in self.children)


def launch(
    module: str, job_path: Path, work_dir: Path, config: LaunchConfig, on_line: Callable[[str], None]
) -> None:
    """Run ``python -m module job_path`` on every rank and wait until all are done.

    Call it from a thread that lives as long as the job (see ``die_with_parent``). Ranks of an earlier launch
    that still run are ended first. Full logs of each rank are kept in ``work_dir/logs``. Several nodes need a
    work folder that all of them see, and ``icl-embed join`` on each but this one, or Ray.

    Raises
        IclEmbedError: the error a rank reported, as its own type.
        StoreError: the disk takes no more.
        StalledJobError: no sign of life for ``config.stall_seconds``.
        WorkerLostError: a rank ended without reporting an error.
        TrainingError: another node has not come in time.
    """
    (work_dir / INVITATION_NAME).unlink(missing_ok=True)  # of a launch that was killed
    with ExitStack() as stack:
        if config.nodes > 1 and config.nodes_by == "ray":
            from icl_embed.launch.ray_nodes import started_by_ray

            config = stack.enter_context(started_by_ray(work_dir, config))
        if config.nodes > 1:
            stack.enter_context(inviting(module, job_path, work_dir, config, on_line))
        run_node(module, job_path, work_dir, config, on_line)


def run_node(
    module: str,
    job_path: Path,
    work_dir: Path,
    config: LaunchConfig,
    on_line: Callable[[str], None],
    node: int = 0,
) -> None:
    """This node's part of ``launch``: its ranks, from ``node * config.processes`` on.

    Raises
        IclEmbedError: as ``launch``.
    """
    ranks = [node * config.processes + number for number in range(config.processes)]
    names = [str(rank) for rank in ranks] if config.nodes > 1 else []
    reap_orphans(work_dir, names)
    if node == 0:
        (work_dir / OUTCOME_NAME).unlink(missing_ok=True)
    (work_dir / "logs").mkdir(parents=True, exist_ok=True)
    job = _Job(work_dir)
    with _environment(config) as environment:
        try:
            for number, rank in enumerate(ranks):
                argv = [sys.executable, "-m", module, str(job_path)]
                own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(number)}
                job.children.append(_start(str(rank), argv, own, work_dir, is_read=not job.children))
            _follow(job, config, on_line)
        finally:
            _end(job)
            reap_orphans(work_dir, names)
    failed = job.first_failure()
    if failed is not None:
        raise _explain(failed, work_dir)


@contextmanager
def _environment(config: LaunchConfig) -> Iterator[dict[str, str]]:
    """What every rank of this node finds in its environment."""
    common = dict(os.environ)
    common["PYTHONUNBUFFERED"] = "1"
    common["TOKENIZERS_PARALLELISM"] = "false"
    common.setdefault("OMP_NUM_THREADS", "1")  # each rank sets its own share of the cores
    common["PYTHONWARNINGS"] = "ignore::FutureWarning"
    common["WORLD_SIZE"] = str(config.nodes * config.processes)
    common["LOCAL_WORLD_SIZE"] = str(config.processes)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        common.pop(name, None)
    if config.nodes > 1:
        yield common | node_environment(config)
        return
    # Sockets between the ranks of one machine are nobody else's business.
    for library in ("GLOO", "NCCL"):
        common.setdefault(f"{library}_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory(prefix="icl-embed-ranks-") as folder:
        yield {**common, MEETING: str(Path(folder) / "meeting")}


def _start(
    name: str, argv: list[str], environment: dict[str, str], work_dir: Path, *, is_read: bool
) -> _Child:
    """Start a process whose output is read here, or goes to its log; it is on record from then on."""
    path = work_dir / "logs" / f"{name}.log"
    with path.open("ab") as log:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if is_read else log,
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0,  # a terminal's Ctrl-C is for us; we ask the ranks to save and stop
            # Safe between fork and exec: two system calls.
            preexec_fn=partial(die_with_parent, parent=os.getpid()),  # noqa: PLW1509
        )
    register(work_dir, name, process.pid)
    return _Child(name, process, path)


def _follow(job: _Job, config: LaunchConfig, on_line: Callable[[str], None]) -> None:
    """Pass the lines on until all ranks are done, one has failed, or nothing moves any more."""
    first = job.children[0]
    output = Output(first.process, first.log)
    watch = _Watch(job.work_dir / BEAT_NAME, config.stall_seconds)
    deadline: float | None = None
    while True:
        was_over = job.is_over
        for line in output.lines(POLL_SECONDS):
            watch.heard()
            on_line(line)
        if was_over and not output.has_more:
            return
        failed = job.first_failure()
        if failed is not None and deadline is None:
            is_saving = failed.process.returncode == EXIT_STOPPED
            deadline = time.monotonic() + (GRACE_SECONDS if is_saving else PEERS_SECONDS)
        if deadline is not None and time.monotonic() > deadline:
            return
        if not was_over and watch.is_stalled():
            raise _stalled(job, config.stall_seconds)


class _Watch:
    """When the first rank was last known to move: a line of its log, or a touch of its file."""

    def __init__(self, beat: Path, patience: float) -> None:
        self._beat, self._patience = beat, patience
        self._seen, self._last = self._touched(), time.monotonic()

    def heard(self) -> None:
        """A line arrived."""
        self._last = time.monotonic()

    def is_stalled(self) -> bool:
        """Whether nothing has moved for too long."""
        touched = self._touched()
        if touched != self._seen:
            self._seen, self._last = touched, time.monotonic()
        return bool(self._patience) and time.monotonic() - self._last > self._patience

    def _touched(self) -> int:
        try:
            return self._beat.stat().st_mtime_ns
        except OSError:
            return 0


def _stalled(job: _Job, seconds: float) -> StalledJobError:
    """Ask every rank where it stands, and end them all."""
    for child in job.children:
        if child.process.poll() is None and not is_stopped(child.process.pid):
            child.process.send_signal(DUMP_SIGNAL)
    deadline = time.monotonic() + DUMP_SECONDS
    while time.monotonic() < deadline and not all(
        _has_answered(child, job.work_dir) for child in job.children
    ):
        time.sleep(0.1)
    places = [f"rank {child.name}: {_where(child, job.work_dir)}" for child in job.children]
    for child in job.children:
        child.process.kill()
    return StalledJobError(
        f"the job gave no sign of life for {seconds:g} s and was ended. " + "; ".join(places) + ". Look into "
        f"{job.work_dir / 'logs'}, then run again to resume from the last checkpoint; if it only needs "
        "longer, raise launch.stall_seconds"
    )


def _has_answered(child: _Child, work_dir: Path) -> bool:
    gone = child.process.poll() is not None or is_stopped(child.process.pid)
    return gone or bool(tail_of(stack_path(work_dir, child.name), 1))


def _where(child: _Child, work_dir: Path) -> str:
    """Where a process stands, in words."""
    if child.process.poll() is not None:
        return f"ended ({child.process.returncode})"
    if is_stopped(child.process.pid):
        return "stopped by a signal"
    frames = tail_of(stack_path(work_dir, child.name), 400)
    start = max((number for number, line in enumerate(frames) if "Current thread" in line), default=0)
    inner = [line.strip() for line in frames[start + 1 : start + 4]]
    return " < ".join(inner) if inner else "no answer"


def _end(job: _Job) -> None:
    """End processes that still run: politely, so that ranks save, then not."""
    left = [child.process for child in job.children if child.process.poll() is None]
    for process in left:
        process.send_signal(signal.SIGTERM)
    # Ranks that miss one of theirs cannot save.
    deadline = time.monotonic() + (GRACE_SECONDS if job.lost is None else 0.0)
    for process in left:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for child in job.children:
        if child.process.stdout is not None:
            child.process.stdout.close()


def _explain(failed: _Child, work_dir: Path) -> IclEmbedError:
    try:
        outcome = json.loads((work_dir / OUTCOME_NAME).read_bytes())
    except (OSError, ValueError):
        return _explain_silence(failed, work_dir)
    kind = getattr(errors, outcome["kind"], None)
    if isinstance(kind, type) and issubclass(kind, IclEmbedError):
        return kind(outcome["message"])
    return WorkerLostError(outcome["message"])


def _explain_silence(failed: _Child, work_dir: Path) -> IclEmbedError:
    """A rank left no message. A full disk takes neither checkpoints nor messages, so look at it first."""
    refusal = why_disk_refuses(work_dir)
    if refusal:
        return StoreError(
            f"training stopped because nothing more can be written to {work_dir}: {refusal}. Nothing was "
            "published; free space or fix the folder, and run again to resume from the last checkpoint"
        )
    last = "\n  ".join(tail_of(failed.log, LINES_KEPT))
    return WorkerLostError(
        f"rank {failed.name} {how_it_ended(failed.process.returncode)} without a message. Run again to "
        f"resume from the last checkpoint. All logs: {work_dir / 'logs'}. Last lines:\n  {last}"
    )
