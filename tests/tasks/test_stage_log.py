"""What the log of a run says, on real log records of Prefect's own loggers."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.states import Completed

from icl_embed.errors import TrainingError
from icl_embed.pipeline.run import Run, open_run
from tasks import stage_log, stages
from tests.tiny_project import build_project


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the loggers of runs and of the library say, as any handler of theirs sees it."""
    kept = Kept()
    loggers = [logging.getLogger(name) for name in ("prefect.flow_runs", "prefect.task_runs", "icl_embed")]
    monkeypatch.setenv("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
    for logger in loggers:
        logger.addHandler(kept)
    monkeypatch.setattr(stage_log, "get_run_logger", lambda: loggers[1])
    monkeypatch.setattr(stages, "get_run_logger", lambda: loggers[1])
    yield kept.lines
    for logger in loggers:
        logger.removeHandler(kept)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run(str(build_project(tmp_path_factory.mktemp("project"))))


def test_a_stage_tells_its_start_what_the_library_says_and_its_end_with_its_name(
    run: Run, lines: list[str]
) -> None:
    key = run.keys.datasets["tiny-facts"]
    stage_log.built(run, key)
    assert all(line.startswith("dataset tiny-facts: ") for line in lines), lines
    assert lines[0] == f"dataset tiny-facts: starts, as {key.reference}"
    assert lines[-1].startswith("dataset tiny-facts: done in ")
    assert any("'rows'" in line for line in lines[1:-1]), "the library's own progress is missing"
    del lines[:]
    stage_log.built(run, key)
    assert lines == [f"dataset tiny-facts: cached, {key.reference}"]


def test_a_stage_that_says_nothing_says_that_it_goes_on(
    run: Run, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_log, "STILL_SECONDS", 0.05)
    from icl_embed.pipeline import build as stages

    def slow(_run: Run, _key: object, _out: Path) -> dict[str, int]:
        import time

        time.sleep(0.3)
        return {}

    monkeypatch.setitem(stages._BUILDERS, "dataset", slow)
    stage_log.built(run, run.keys.datasets["tiny-notes"])
    assert any(line.startswith("dataset tiny-notes: still running") for line in lines)


def test_a_stage_that_did_not_have_to_run_is_told_once(run: Run, lines: list[str]) -> None:
    key = run.keys.pool
    assert stages.reference_of(Completed(name="Cached", data=key.reference), key) == key.reference
    assert stages.reference_of(Completed(data=key.reference), key) == key.reference
    assert lines == [f"pool tiny: cached, {key.reference}"]


def test_the_line_about_the_end_says_of_what(lines: list[str]) -> None:
    flow, task = logging.getLogger("prefect.flow_runs"), logging.getLogger("prefect.task_runs")
    named = {"task_run_name": "pool tiny"}
    task.warning("Finished in state Completed()", extra=named)
    task.warning("Finished in state Cached(type=COMPLETED)", extra=named)
    task.warning("Finished in state Failed('PoolError: no')", extra=named)
    flow.warning("Finished in state Completed('report')", extra={"flow_name": "full-pipeline"})
    assert lines == [
        "pool tiny: Finished in state Failed('PoolError: no')",
        "full-pipeline: Finished in state Completed('report')",
    ]


def test_only_errors_that_nobody_foresaw_have_a_traceback(lines: list[str]) -> None:
    logger = logging.getLogger("prefect.flow_runs")
    for error in (TrainingError("five rows"), ValueError("a bug")):
        try:
            raise error
        except Exception:
            logger.exception("Engine execution exited with unexpected exception")
    assert len(lines) == 1
    assert "a bug" in lines[0]
    assert "Traceback" in lines[0]


# As Prefect's threads do: one of ours that outlives the interpreter holds what reaches DuckDB.
ENDING = """
import threading, time
from icl_embed.pool import database, statistics

def hold(_globals):
    time.sleep(100)

threading.Thread(target=hold, args=(HELD,), daemon=True).start()
time.sleep(0.2)
"""


@pytest.mark.parametrize(
    ("first", "held", "is_quiet"),
    [
        ("import tasks.stage_log", "statistics.check_limits", True),
        ("", "database.Connection", False),  # what the test would see
    ],
)
def test_a_process_of_flows_ends_without_pages_about_leaks(first: str, held: str, is_quiet: bool) -> None:
    argv = [sys.executable, "-c", f"{first}\n{ENDING}".replace("HELD", held)]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stderr
    assert ("nanobind: leaked" not in told) == is_quiet
