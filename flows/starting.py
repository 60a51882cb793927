"""Starting a flow: in this process, or as a run of its deployment."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from icl_embed.errors import ConfigError, IclEmbedError

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


class FlowFailedError(IclEmbedError):
    """A deployed flow run did not complete."""


def run_here(flow: str, parameters: Mapping[str, Any]) -> Any:
    """Run a flow in this process; its run is recorded by the configured Prefect server, or a temporary one.

    Raises
        ConfigError: there is no such flow.
    """
    settle_environment()
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
    return load_flow(flow)(**parameters)


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
    # on a busy machine the temporary server needs longer than the 20 seconds that Prefect allows it
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "icl_embed")
    os.environ.setdefault("DO_NOT_TRACK", "1")
