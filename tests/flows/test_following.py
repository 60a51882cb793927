"""Following a run whose lines reach the server late and out of order, as they do."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.filters import LogFilter
from prefect.client.schemas.objects import Log
from prefect.states import Completed, Failed, Running
from rich.console import Console

from flows import following
from flows.following import FlowFailedError, follow

START = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
TASK = uuid4()


def line(number: float, message: str, task: UUID | None = None) -> Log:
    time = START + timedelta(seconds=number)
    return Log(id=uuid4(), name="prefect", level=20, message=message, timestamp=time, task_run_id=task)


class Server:
    """The server's side of the questions that following asks, with lines that arrive between two questions."""

    def __init__(self, arrivals: list[list[Log]], end: Any) -> None:
        self._arrivals, self._end, self._lines = arrivals, end, list[Log]()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_flow_run(self, _run_id: UUID) -> Any:
        # the end is known before the last lines have arrived
        return SimpleNamespace(name="busy-bee", state=self._end if len(self._arrivals) <= 1 else Running())

    def read_task_run(self, _task_run_id: UUID) -> Any:
        return SimpleNamespace(name="pool tiny")

    def read_logs(self, log_filter: LogFilter, limit: int, offset: int, **_: Any) -> list[Log]:
        if self._arrivals:
            self._lines += self._arrivals.pop(0)
        assert log_filter.timestamp is not None
        since = log_filter.timestamp.after_
        found = sorted((one for one in self._lines if one.timestamp >= since), key=lambda one: one.timestamp)
        return found[offset : offset + limit]


def followed(
    monkeypatch: pytest.MonkeyPatch, arrivals: list[list[Log]], end: Any
) -> tuple[list[str], BaseException | None]:
    monkeypatch.setattr("prefect.client.orchestration.get_client", lambda **_: Server(arrivals, end))
    for name, value in (("POLL_SECONDS", 0.0), ("QUIET_SECONDS", 0.05), ("PAGE", 3)):
        monkeypatch.setattr(following, name, value)
    out = io.StringIO()
    try:
        follow(uuid4(), Console(file=out, width=30))
    except FlowFailedError as error:
        return out.getvalue().splitlines(), error
    return out.getvalue().splitlines(), None


def test_every_line_is_shown_once_however_late_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line(number, f"line {number} of a text that is wider than the console") for number in range(20)]
    arrivals = [lines[5:8], lines[0:2], [], lines[9:16], [lines[8]], [], lines[2:5], lines[16:]]
    shown, error = followed(monkeypatch, arrivals, Completed(message="store/report/index.html"))
    assert error is None
    messages = [text.split(" ", 1)[1] for text in shown if text[2:3] == ":"]
    assert sorted(messages) == sorted(one.message for one in lines)
    assert shown[-1] == "store/report/index.html"
    assert "busy-bee is done" in shown


def test_a_line_far_older_than_what_was_shown_is_shown_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    old = line(0, "from a slow process")
    arrivals = [[line(500, "new")], [], [old], []]
    shown, _ = followed(monkeypatch, arrivals, Completed(message=""))
    assert sum("from a slow process" in text for text in shown) == 1


def test_lines_say_of_which_task_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals = [[line(0, "plain", TASK), line(1, "pool tiny: starts", TASK), line(2, "of the flow")]]
    shown, _ = followed(monkeypatch, arrivals, Completed())
    assert [text.split(" ", 1)[1] for text in shown[:3]] == [
        "pool tiny: plain",
        "pool tiny: starts",
        "of the flow",
    ]


def test_a_run_that_failed_is_an_error_with_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, error = followed(monkeypatch, [[line(0, "last words")]], Failed(message="PoolError: no rows"))
    assert "last words" in shown[0]
    assert str(error) == "flow run busy-bee ended as Failed: PoolError: no rows"
