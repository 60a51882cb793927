"""Starting a flow: in this process, or as a run of its deployment."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from icl_embed.errors import ConfigError

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
    # on a busy machine the temporary server needs longer than the 20 seconds that Prefect allows it
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "icl_embed")
    os.environ.setdefault("DO_NOT_TRACK", "1")
