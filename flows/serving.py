"""A Prefect server and a worker on this machine, with every flow deployed, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from rich.console import Console

from flows.starting import command_at, settle_environment
from icl_embed.errors import ConfigError
from icl_embed.launch.processes import die_with_parent

ROOT = Path(__file__).resolve().parents[1]
WORK_POOL = "local"
START_SECONDS = 120


def serve(port: int, console: Console) -> None:
    """Start server and worker, deploy, wait.

    Raises
        ConfigError: the port is taken, or the server does not start.
    """
    settle_environment()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell that starts us in the background ignores SIGINT
        signal.signal(number, signal.default_int_handler)
    url = f"http://127.0.0.1:{port}/api"
    os.environ["PREFECT_API_URL"] = url
    os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
    # In memory, the slots of a killed run would never be freed after a restart of the server.
    os.environ["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] = (
        "prefect.server.concurrency.lease_storage.filesystem"
    )
    if _answers(url):
        raise ConfigError(f"something already answers at {url}; stop it or choose another --port")
    with ExitStack() as stack:
        server = stack.enter_context(_prefect("server", "start", "--host", "127.0.0.1", "--port", str(port)))
        _wait_for(server, url)
        _prefect_once("work-pool", "create", WORK_POOL, "--type", "process", "--overwrite")
        _prefect_once("--no-prompt", "deploy", "--all")
        limit_accelerators()
        worker = stack.enter_context(_prefect("worker", "start", "--pool", WORK_POOL))
        console.print(f"\n[bold]UI: {url.removesuffix('/api')}[/bold]   (Ctrl-C stops server and worker)")
        hint = command_at(url, "icl-embed run full-pipeline --preset demo")
        console.print(f"In another terminal: {hint}\n", soft_wrap=True)
        _wait_until_stopped(server, worker)


def limit_accelerators() -> None:
    """One run at a time on this host's accelerators."""
    from prefect.client.orchestration import get_client

    from tasks.policies import accelerator_limit_name

    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(accelerator_limit_name(), 1)


@contextmanager
def _prefect(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A long-running Prefect command that ends with the block, or with us."""
    process = subprocess.Popen([*_PREFECT, *arguments], preexec_fn=_become_child)  # noqa: PLW1509
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _become_child() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent()


def _prefect_once(*arguments: str) -> None:
    # prefect.yaml lies at the root of the checkout and names it by $PWD
    environment = {**os.environ, "PWD": str(ROOT)}
    subprocess.run([*_PREFECT, *arguments], check=True, cwd=ROOT, env=environment)


_PREFECT = (sys.executable, "-m", "prefect")


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).is_success
    except httpx.TransportError:
        return False


def _wait_for(server: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(url):
        if server.poll() is not None:
            raise ConfigError(f"the Prefect server ended with code {server.returncode}; its log is above")
        if time.monotonic() > deadline:
            raise ConfigError(f"the Prefect server did not answer at {url} within {START_SECONDS} s")
        time.sleep(0.5)


def _wait_until_stopped(*processes: subprocess.Popen[bytes]) -> None:
    try:
        while all(process.poll() is None for process in processes):
            time.sleep(0.5)
    except KeyboardInterrupt:
        return
    raise ConfigError("the Prefect server or worker ended by itself; its log is above")
