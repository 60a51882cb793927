"""Starting a flow: in this process, or as a run of its deployment."""

from __future__ import annotations

import atexit
import difflib
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
from urllib.parse import urlsplit

from rich.console import Console

from icl_embed.errors import ConfigError
from icl_embed.launch.processes import die_with_parent

FLOWS = (
    "full-pipeline",
    "build-pool",
    "train-embedder",
    "evaluate-checkpoint",
    "re-evaluate",
    "distill-reranker",
    "ablations",
    "benchmark",
)
LOCAL_API_URL = "http://127.0.0.1:4200/api"  # where `make ui` listens
TEMPORARY_START_SECONDS = 180  # on a busy machine a server needs longer than the 20 seconds of Prefect's own


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
    name, _, deployment = name.partition("/")
    refuse_unknown(name)
    if deployment not in ("", name):
        raise ConfigError(
            f"{deployment!r} is a deployment of its own; leave --here out to run it on its server"
        )
    module = name.replace("-", "_")
    return getattr(importlib.import_module(f"flows.{module}"), module)


def run_deployed(flow: str, parameters: Mapping[str, Any], console: Console) -> None:
    """Create a run of the flow's deployment and follow it to its end.

    Parameters
        flow: its name, or Prefect's ``flow/deployment``; without one, the deployment is called like the flow.

    Raises
        ConfigError: there is no such flow, no server answers, nothing is deployed, or the server refuses the
            parameters.
        FlowFailedError: the run did not complete.
    """
    settle_environment()
    os.environ.setdefault("PREFECT_API_URL", LOCAL_API_URL)
    name, _, deployment = flow.partition("/")
    refuse_unknown(name)
    import httpx
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
    from prefect.settings import get_current_settings

    from flows.following import follow

    url = get_current_settings().api.url or LOCAL_API_URL
    # the worker stands in another folder than the caller
    preset = parameters["preset"]
    named = str(Path(preset).resolve()) if preset.endswith(".toml") else preset
    try:
        run: Any = run_deployment(
            f"{name}/{deployment or name}", parameters={**parameters, "preset": named}, timeout=0
        )
    except httpx.TransportError as error:
        raise ConfigError(
            f"no Prefect server answers at {url}; start one with `{serving_command(url)}`, or add --here"
        ) from error
    except ObjectNotFound as error:
        deploy = command_at(url, "prefect --no-prompt deploy --all")
        raise ConfigError(f"{name}/{deployment or name} is not deployed at {url}; run `{deploy}`") from error
    except PrefectHTTPStatusError as error:
        raise ConfigError(f"the Prefect server at {url} refuses this run: {error.response.text}") from error
    console.print(f"flow run {run.name}: {url.removesuffix('/api')}/runs/flow-run/{run.id}", soft_wrap=True)
    follow(run.id, console)


def refuse_unknown(flow: str) -> None:
    """Nothing, for a flow that there is.

    Raises
        ConfigError: there is no such flow.
    """
    if flow not in FLOWS:
        near = difflib.get_close_matches(flow, FLOWS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(FLOWS)}"
        raise ConfigError(f"there is no flow {flow!r}; {hint}")


def command_at(url: str, command: str) -> str:
    """A command as it must be typed to reach a server; ``icl-embed`` finds the usual one by itself."""
    if url == LOCAL_API_URL and command.startswith("icl-embed "):
        return command
    return f"PREFECT_API_URL={url} {command}"


def serving_command(url: str) -> str:
    """The command that starts a server at a URL, as far as that is on this machine."""
    port = urlsplit(url).port or 4200
    return "icl-embed ui" if port == 4200 else f"icl-embed ui --port {port}"


def settle_environment() -> None:
    """Keep Prefect's state with the project, and forward our own log lines to it."""
    home = Path.cwd() / ".prefect"
    os.environ.setdefault("PREFECT_HOME", str(home))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # the shortest that Prefect allows: a server without them for three times as long calls the run crashed
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "icl_embed")
    os.environ.setdefault("DO_NOT_TRACK", "1")
