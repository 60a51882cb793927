"""A run in one's own process takes its temporary Prefect server along, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from icl_embed.launch.processes import children_of, start_time_of
from tests.flows.running import flow_command, flow_environment
from tests.tiny_project import build_project
from tests.ui.running_ui import command

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_leaves_no_server(tmp_path: Path, number: int) -> None:
    project = build_project(tmp_path)
    run = subprocess.Popen(
        flow_command("build-pool", project),
        cwd=tmp_path,
        env=flow_environment(project),
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "store").glob("dataset/*")):  # the flow runs: its server is up
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    servers = [pid for pid in children_of(run.pid) if "create_app" in command(pid)]
    assert len(servers) == 1
    os.kill(run.pid, number)
    run.wait(60)
    deadline = time.monotonic() + 20
    while start_time_of(servers[0]):
        assert time.monotonic() < deadline, "the temporary server outlived its run"
        time.sleep(0.1)
