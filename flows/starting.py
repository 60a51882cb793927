"""Starting a flow: in this process, or as a run of its deployment."""

from __future__ import annotations

import atexit
import importlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from icl_embed.errors import ConfigError, IclEmbedError
from icl_embed.launch.processes import die_with_parent

FLOWS = (
    "full-pipeline",
    "build-pool",
    "train-embedder",
    "evaluate-checkpoint",
    "re-evaluate",
    "distill-reranker",
    "ablations",
)
LOCAL_API_URL = "http://127.0.0.1:4200/api"  # where `make ui` listens
TEMPORARY_START_SECONDS = 180  # on a busy machine a server needs longer than the 20 seconds of Prefect's own


class FlowFailedError(IclEmbedError):
    """A deployed flow run did not complete."""


def run_here(flow: str, parameters: Mapping[str, Any]) -> Any:
    """Run a flow in this process; its run is recorded by the configured Prefect server, or a temporary one.

    Raises
        ConfigError: there is no such flow, or the temporary server does not start.
    """
    settle_environment()
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:
        start_temporary_server()
    return load_flow(flow)(**parameters)


def start_temporary_server() -> None:
    """Start a Prefect server for this process alone: however we end, it ends with us.

    Prefect would start one itself, but that one outlives a killed run.

    Raises
        ConfigError: it does not start.
    """
    import prefect
    from prefect.context import refresh_global_settings_context

    port = _free_port()
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(prefect.__module_path__.parent), "--factory"]
    command += ["prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--log-level", "error", "--lifespan", "on"]
    environment = {
        **os.environ,
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",  # only the services that record what happens
        "PREFECT__SERVER_FINAL": "1",
    }
    # a session of its own: Ctrl-C is for the run, which reports its end before the server goes
    server = subprocess.Popen(
        command,
        env=environment,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, safe between fork and exec
        start_new_session=True,
    )
    # what is registered first runs last: Prefect sends its last logs and states before
    atexit.register(_end_server, server)
    url = f"http://127.0.0.1:{port}/api"
    wait_for_server(server, url, TEMPORARY_START_SECONDS)
    os.environ["PREFECT_API_URL"] = url
    refresh_global_settings_context()


def _end_server(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def answers(url: str) -> bool:
    """Whether a Prefect server answers at this URL."""
    import httpx

    try:
        return httpx.get(f"{url}/health", timeout=2).is_success
    except httpx.TransportError:
        return False


def wait_for_server(
    server: subprocess.Popen[bytes], url: str, seconds: float, stop: threading.Event | None = None
) -> None:
    """Wait until a server that was just started answers, or ``stop`` is set.

    Raises
        ConfigError: it ended, or took too long.
    """
    deadline = time.monotonic() + seconds
    while not answers(url) and not (stop and stop.is_set()):
        if server.poll() is not None:
            raise ConfigError(f"the Prefect server ended with code {server.returncode}; its log is above")
        if time.monotonic() > deadline:
            raise ConfigError(f"the Prefect server did not answer at {url} within {seconds:.0f} s")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def load_flow(name: str) -> Any:
    """The flow object of a name.

    Raises
        ConfigError: there is no such flow.
    """
    if name not in FLOWS:
        raise ConfigError(f"there is no flow {name!r}; known are {', '.join(FLOWS)}")
    module = name.replace("-", "_")
    return getattr(importlib.import_module(f"flows.{module}"), module)


def run_deployed(flow: str, parameters: Mapping[str, Any], console: Console) -> None:
    """Create a run of the flow's deployment and follow it to its end.

    Raises
        ConfigError: there is no such flow, no server answers, or nothing is deployed.
        FlowFailedError: the run did not complete.
    """
    settle_environment()
    os.environ.setdefault("PREFECT_API_URL", LOCAL_API_URL)
    if flow not in FLOWS:
        raise ConfigError(f"there is no flow {flow!r}; known are {', '.join(FLOWS)}")
    import httpx
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url or LOCAL_API_URL
    # the worker stands in another folder than the caller
    preset = parameters["preset"]
    named = str(Path(preset).resolve()) if preset.endswith(".toml") else preset
    try:
        run: Any = run_deployment(f"{flow}/{flow}", parameters={**parameters, "preset": named}, timeout=0)
    except httpx.TransportError as error:
        raise ConfigError(f"no Prefect server answers at {url}; run `make ui`, or add --here") from error
    except ObjectNotFound as error:
        raise ConfigError(f"{flow} is not deployed at {url}; run `prefect deploy --all`") from error
    console.print(f"flow run {run.name}: {url.removesuffix('/api')}/runs/flow-run/{run.id}", soft_wrap=True)
    follow(run.id, console)


def follow(run_id: Any, console: Console) -> None:
    """Print a run's log until it ends.

    Raises
        FlowFailedError: it ended in any state but Completed.
    """
    import time

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.client.schemas.sorting import LogSort

    seen = 0
    with get_client(sync_client=True) as client:
        logs_of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
        while True:
            run = client.read_flow_run(run_id)
            lines = client.read_logs(logs_of_run, limit=200, offset=seen, sort=LogSort.TIMESTAMP_ASC)
            for line in lines:
                console.print(f"{line.timestamp:%H:%M:%S} {line.message}", markup=False, soft_wrap=True)
            seen += len(lines)
            if run.state is not None and run.state.is_final() and not lines:
                break
            if not lines:
                time.sleep(2)
    if not run.state.is_completed():
        raise FlowFailedError(f"flow run {run.name} ended as {run.state.name}: {run.state.message}")
    console.print(f"[bold]{run.name} completed[/bold]")


def settle_environment() -> None:
    """Keep Prefect's state with the project, and forward our own log lines to it."""
    home = Path.cwd() / ".prefect"
    os.environ.setdefault("PREFECT_HOME", str(home))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # the shortest that Prefect allows: a server without them for three times as long calls the run crashed
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "icl_embed")
    os.environ.setdefault("DO_NOT_TRACK", "1")
