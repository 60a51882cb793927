"""A schedule really makes runs, and the worker executes them: on SQLite, and on PostgreSQL where there is one."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.tiny_project import build_project
from tests.ui.running_ui import RunningUi, free_port

POSTGRES = [*Path("/usr/lib/postgresql").glob("*/bin/postgres")]
POSTGRES += [Path(found)] if (found := shutil.which("postgres")) else []
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@contextmanager
def postgres() -> Iterator[str]:
    """A cluster of its own in a temporary folder; gives what Prefect needs to find it."""
    programs, port = POSTGRES[0].parent, free_port()
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="icl-embed-postgres-"))
    if user:
        shutil.chown(folder, "postgres")

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [*user, programs / program, *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL
        )

    data, here = str(folder / "data"), f"-p {port} -h 127.0.0.1 -k {folder}"
    run("initdb", "-D", data, "-A", "trust", "-U", "postgres")
    run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", here, "start")
    try:
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "prefect")
        yield f"postgresql+asyncpg://postgres@127.0.0.1:{port}/prefect"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgres"])
def ui(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningUi]:
    if request.param == "sqlite":
        running = RunningUi(tmp_path)
        running.start()
        yield running
        running.stop()
        return
    if not POSTGRES:
        pytest.skip("no postgres on this machine (Debian: apt-get install postgresql)")
    with postgres() as url:
        running = RunningUi(tmp_path, PREFECT_SERVER_DATABASE_CONNECTION_URL=url)
        running.start()
        yield running
        running.stop()
        assert not (running.home / "prefect.db").exists(), "the server did not use PostgreSQL"


def test_a_schedule_of_one_minute_makes_a_run_per_minute(ui: RunningUi, tmp_path: Path) -> None:
    parameters = {"preset": str(build_project(tmp_path)), "overrides": []}
    deployment = ui.deployment("build-pool")["id"]
    ui.ask(f"/deployments/{deployment}", "PATCH", parameters=parameters)
    every_minute = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}, "active": True}
    begun = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    ui.request("POST", f"/deployments/{deployment}/schedules", [every_minute])

    def completed() -> list[dict[str, str]]:
        found = ui.ask(
            "/flow_runs/filter",
            deployments={"id": {"any_": [deployment]}},
            flow_runs={"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}},
            sort="EXPECTED_START_TIME_ASC",
        )
        assert {run["state_name"] for run in found} <= {"Completed"}
        return [run for run in found if run["auto_scheduled"]]

    ui.wait(lambda: len(completed()) >= 3, 300)
    runs = completed()
    print(f"\nthe schedule began at {begun}")
    for run in runs:
        print(run["expected_start_time"], "started", run["start_time"], "ended", run["end_time"])
    expected = [datetime.fromisoformat(run["expected_start_time"]) for run in runs]
    assert {after - before for before, after in itertools.pairwise(expected)} == {timedelta(minutes=1)}
    assert "Error in service" not in ui.log.read_text()
