"""``icl-embed ui`` as its owner starts it, its API, and the processes that belong to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from icl_embed.launch.processes import processes_with

ROOT = Path(__file__).resolve().parents[2]


def icl_embed(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from flows.command_line import main; main()", *arguments]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class RunningUi:
    """A server and a worker with a home of their own; started, stopped and killed at will."""

    def __init__(self, folder: Path, root: Path = ROOT, **settings: str) -> None:
        self.root = root
        self.home = folder / ".prefect"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.log = folder / "ui.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(root),
            "PREFECT_HOME": str(self.home),
            "PREFECT_LOCAL_STORAGE_PATH": str(self.home / "storage"),
            "PREFECT_API_URL": self.url,
            "OMP_NUM_THREADS": "1",
            **settings,
        }

    def start(self) -> None:
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                icl_embed("ui", "--port", str(self.port)),
                cwd=self.root,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait(self.is_started, 180)

    def is_started(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return "In another terminal" in self.log.read_text()

    def stop(self, number: int = signal.SIGINT) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(120)

    def wait(self, condition: Callable[[], object], seconds: float) -> float:
        """Wait until a condition holds; returns after how many seconds it did."""
        begun = time.monotonic()
        while not condition():
            assert time.monotonic() - begun < seconds, self.log.read_text()[-4000:]
            time.sleep(0.5)
        return time.monotonic() - begun

    def ask(self, path: str, method: str = "POST", **body: Any) -> Any:
        return self.request(method, path, body or None)

    def request(self, method: str, path: str, body: object) -> Any:
        for _ in range(5):
            answer = httpx.request(method, self.url + path, json=body, timeout=30)
            if answer.status_code != 503:  # SQLite is busy
                break
            time.sleep(1)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> dict[str, Any]:
        return dict(self.ask(f"/deployments/name/{name}/{name}", "GET"))

    def create_run(self, deployment: str, preset: Path, *overrides: str) -> str:
        parameters = {"preset": str(preset), "overrides": list(overrides)}
        name = self.deployment(deployment)["id"]
        return str(self.ask(f"/deployments/{name}/create_flow_run", parameters=parameters)["id"])

    def state(self, run: str) -> str:
        return str(self.ask(f"/flow_runs/{run}", "GET")["state_name"])

    def tasks(self, run: str) -> dict[str, str]:
        found = self.ask("/task_runs/filter", flow_runs={"id": {"any_": [run]}})
        return {task["name"]: task["state_name"] for task in found}

    def set_state(self, run: str, **state: str) -> str:
        return str(self.ask(f"/flow_runs/{run}/set_state", state=state)["status"])

    def pid_of(self, words: str) -> int:
        """The one process of ours whose command line has these words."""
        [pid] = [pid for pid in processes_with("PREFECT_HOME", str(self.home)) if words in command(pid)]
        return pid

    def processes_of(self, run: str) -> dict[int, str]:
        return {pid: command(pid) for pid in processes_with("PREFECT__FLOW_RUN_ID", run)}


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
