"""The truth about runs: one whose process is gone is Crashed, with its tasks, and leaves no process behind.

Two watchers see to it. ``icl-embed ui`` looks at the processes of its own worker. For any other run (a worker
on another machine, a run with ``--here`` that reports to the server) an automation on the server calls a run
crashed whose heartbeats stopped.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.events import ResourceSpecification
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Crashed

from icl_embed.launch.processes import (
    children_of,
    end_processes,
    environment_of,
    parent_of,
    processes_with,
    start_time_of,
)

AUTOMATION_NAME = "icl-embed: a run without heartbeats has crashed"
RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"  # in the environment of a run's process and of all that it starts
REPORT_SECONDS = 10  # the worker says itself how a process ended, if it still can
SAVING_SECONDS = 60  # ranks that lost their run finish their step and save
GONE = "the process of this run ended without a word (killed, or out of memory?)"
IN_PROGRESS = (StateType.RUNNING, StateType.PENDING)


def install_automation(client: SyncPrefectClient, flows: Sequence[str]) -> None:
    """Make the server call a run of these flows crashed when three of its heartbeats are missing.

    An automation that exists is left alone (it may be switched off, or more patient), but for the flows.
    """
    of_our_flows = ResourceSpecification({"prefect.resource.role": "flow", "prefect.resource.name": [*flows]})
    silence = timedelta(seconds=3 * (get_current_settings().flows.heartbeat_frequency or 30))
    wanted = AutomationCore(
        name=AUTOMATION_NAME,
        description="Installed by icl-embed ui. Switch it off to keep it from coming back.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=of_our_flows,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=silence,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"no heartbeat for {silence}")],
    )
    found = client.read_automations_by_name(AUTOMATION_NAME)
    if not found:
        client.create_automation(wanted)
    elif isinstance(found[0].trigger, EventTrigger) and found[0].trigger.match_related != of_our_flows:
        kept = found[0].model_copy(update={"trigger": wanted.trigger})
        client.update_automation(found[0].id, AutomationCore(**kept.model_dump(exclude={"id"})))


def crash_tasks_of_ended_runs(client: SyncPrefectClient, since_seconds: float = REPORT_SECONDS) -> None:
    """End the tasks of runs that crashed, failed or were cancelled: their processes could not."""
    ended = FlowRunFilterEndTime(before_=datetime.now(UTC) - timedelta(seconds=since_seconds))
    unfinished = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[*IN_PROGRESS])))
    states: list[tuple[list[StateType], State[None]]] = [
        ([StateType.CRASHED, StateType.FAILED], Crashed(message="its flow run ended before it")),
        ([StateType.CANCELLED], Cancelled(message="its flow run was cancelled")),
    ]
    for kinds, state in states:
        runs = FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=kinds)), end_time=ended
        )
        for task in client.read_task_runs(flow_run_filter=runs, task_run_filter=unfinished):
            client.set_task_run_state(task.id, state, force=True)


@dataclass(frozen=True)
class Record:
    """A process that was written down, and the ``icl-embed ui`` it belongs to."""

    path: Path
    pid: int
    started: str
    keeper: int
    keeper_started: str

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record in a file."""
        pid, started, keeper, keeper_started = path.read_text(encoding="ascii").split()
        return cls(path, int(pid), started, int(keeper), keeper_started)

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return start_time_of(self.pid) == self.started

    @property
    def is_ours(self) -> bool:
        """Whether no other living process takes care of it."""
        return self.keeper == os.getpid() or start_time_of(self.keeper) != self.keeper_started

    @property
    def processes(self) -> list[int]:
        """The process, and for a run everything that it started."""
        is_run = self.path.name not in ("server", "worker")
        return [
            *([self.pid] if self.is_alive else []),
            *(processes_with(RUN_VARIABLE, self.path.name) if is_run else []),
        ]


class Watch:
    """What ``icl-embed ui`` started, written down by pid and start time, so that its successor finds it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._gone: dict[str, datetime] = {}
        self._left: dict[int, float] = {}

    def note(self, name: str, pid: int) -> None:
        """Write down a process: ``server``, ``worker`` or the id of a run."""
        keeper = os.getpid()
        text = f"{pid} {start_time_of(pid)} {keeper} {start_time_of(keeper)}"
        path = self._folder / name
        if not path.exists() or path.read_text(encoding="ascii") != text:
            path.write_text(text, encoding="ascii")

    def look(self, worker: int) -> None:
        """Write down the runs that the worker started, and end those that a killed worker left.

        Nobody reads their output any more, and nobody could cancel them.
        """
        for record in self._records():
            if record.is_alive and parent_of(record.pid) != worker:
                since = self._left.get(record.pid)
                with suppress(ProcessLookupError):
                    if since is None:
                        self._left[record.pid] = time.monotonic()
                        os.kill(record.pid, signal.SIGTERM)
                    elif time.monotonic() - since > SAVING_SECONDS:
                        os.kill(record.pid, signal.SIGKILL)
        for child in children_of(worker):
            run = environment_of(child).get(RUN_VARIABLE)
            if run and start_time_of(child):
                self.note(run, child)

    def settle(self, client: SyncPrefectClient, message: str = GONE, *, at_once: bool = False) -> None:
        """Crash the runs whose process is gone, and end what such a process left behind."""
        for record in self._records():
            run = record.path.name
            if record.is_alive:
                self._gone.pop(run, None)
                continue
            since = self._gone.setdefault(run, datetime.now(UTC))
            seconds = (datetime.now(UTC) - since).total_seconds()
            left = record.processes
            if left and (at_once or seconds > SAVING_SECONDS):
                end_processes(left, patience_seconds=0 if at_once else 5)
            if at_once or seconds > REPORT_SECONDS:
                _crash(client, UUID(run), message, since)
                if at_once or not left:
                    record.path.unlink(missing_ok=True)
                    del self._gone[run]
        crash_tasks_of_ended_runs(client, since_seconds=-1 if at_once else REPORT_SECONDS)

    def end_leftovers(self) -> int:
        """End what an earlier ``icl-embed ui`` left behind when it was killed; returns how many processes."""
        records = [record for record in self._records(everything=True) if record.keeper != os.getpid()]
        ended = end_processes([pid for one in records for pid in one.processes], patience_seconds=15)
        for record in records:
            if record.path.name in ("server", "worker"):
                record.path.unlink(missing_ok=True)
        return ended

    def wait_until_ended(self, patience: float, hurry: threading.Event) -> None:
        """Wait until no run has a process; end what still has one then, or when ``hurry`` is set."""
        deadline = time.monotonic() + patience
        while (left := [pid for one in self._records() for pid in one.processes]) and (
            time.monotonic() < deadline
        ):
            if hurry.wait(0.2):
                break
        end_processes(left, patience_seconds=0)

    def forget(self, *names: str) -> None:
        """Strike out processes that ended in order."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def _records(self, *, everything: bool = False) -> Iterator[Record]:
        for path in sorted(self._folder.iterdir()):
            with suppress(OSError, ValueError):  # half written, or taken away meanwhile
                record = Record.read(path)
                if record.is_ours and (everything or path.name not in ("server", "worker")):
                    yield record


def _crash(client: SyncPrefectClient, run_id: UUID, message: str, since: datetime) -> None:
    with suppress(ObjectNotFound):  # deleted by an operator
        state = client.read_flow_run(run_id).state
        if state is None or state.timestamp > since:  # retried meanwhile
            return
        if state.type == StateType.CANCELLING:
            client.set_flow_run_state(run_id, Cancelled(message=message))
        elif state.type in IN_PROGRESS:
            client.set_flow_run_state(run_id, Crashed(message=message))
