"""Following a deployed run: every line of its log exactly once, and its result."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from rich.console import Console

from icl_embed.errors import IclEmbedError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import Log

BEGINNING = datetime.fromtimestamp(0, UTC)
PAGE = 200  # the most lines that the server gives at once
POLL_SECONDS = 2.0
LATE_SECONDS = 60.0  # processes send their lines in batches, so a line may be older than lines already shown
QUIET_SECONDS = 6.0  # after the end: longer than any process keeps a batch back


class FlowFailedError(IclEmbedError):
    """A deployed flow run did not complete."""


def follow(run_id: UUID, console: Console) -> None:
    """Print a run's log until it ends, and its result.

    Raises
        FlowFailedError: it ended in any state but Completed.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        log, since = RunLog(client, run_id, console), BEGINNING
        run = client.read_flow_run(run_id)
        while run.state is None or not run.state.is_final():
            newest = log.show(since)
            since = newest - timedelta(seconds=LATE_SECONDS) if newest else since
            time.sleep(POLL_SECONDS)
            run = client.read_flow_run(run_id)
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < QUIET_SECONDS:
            if log.show(BEGINNING):
                quiet_since = time.monotonic()
            time.sleep(POLL_SECONDS / 2)
    said = run.state.message or ""
    if not run.state.is_completed():
        raise FlowFailedError(f"flow run {run.name} ended as {run.state.name}: {said}")
    console.print(f"\n[bold]{run.name} is done[/bold]")
    console.print(said, markup=False, highlight=False, soft_wrap=True)


class RunLog:
    """The lines of one run on the server, each shown once."""

    def __init__(self, client: SyncPrefectClient, run_id: UUID, console: Console) -> None:
        self._client, self._run_id, self._console = client, run_id, console
        self._shown: set[UUID] = set()
        self._tasks: dict[UUID, str] = {}

    def show(self, since: datetime) -> datetime | None:
        """Show the lines since a time that were not shown yet; returns the time of the newest of them."""
        new = [line for line in self._read(since) if line.id not in self._shown]
        for line in new:
            self._shown.add(line.id)
            self._console.print(self._worded(line), markup=False, highlight=False, soft_wrap=True)
        return max((line.timestamp for line in new), default=None)

    def _read(self, since: datetime) -> list[Log]:
        """All lines since a time. One that arrives meanwhile moves others to later pages, not to earlier."""
        from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId, LogFilterTimestamp
        from prefect.client.schemas.sorting import LogSort

        which = LogFilter(
            flow_run_id=LogFilterFlowRunId(any_=[self._run_id]), timestamp=LogFilterTimestamp(after_=since)
        )
        lines: dict[UUID, Log] = {}
        offset = 0
        while True:
            page = self._client.read_logs(which, limit=PAGE, offset=offset, sort=LogSort.TIMESTAMP_ASC)
            lines |= {line.id: line for line in page}
            offset += len(page)
            if len(page) < PAGE:
                return sorted(lines.values(), key=lambda line: line.timestamp)

    def _worded(self, line: Log) -> str:
        name = self._name_of(line.task_run_id) if line.task_run_id else ""
        named = line.message if line.message.startswith(name) else f"{name}: {line.message}"
        return f"{line.timestamp.astimezone():%H:%M:%S} {named}"

    def _name_of(self, task_run_id: UUID) -> str:
        if task_run_id not in self._tasks:
            from prefect.exceptions import ObjectNotFound

            try:
                self._tasks[task_run_id] = self._client.read_task_run(task_run_id).name
            except ObjectNotFound:  # the server learns of a task run a little later than of its first line
                return ""
        return self._tasks[task_run_id]
