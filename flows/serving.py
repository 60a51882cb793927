"""A Prefect server and a worker on this machine, with every flow deployed, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

import httpx
from rich.console import Console

from flows.starting import FLOWS, answers, command_at, settle_environment, wait_for_server
from icl_embed.errors import ConfigError
from icl_embed.launch.processes import die_with_parent

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from flows.watching import Watch

START_SECONDS = 120
STOP_SECONDS = 30
STEADY_SECONDS = 60  # whoever ran so long is started again without a wait
LONGEST_WAIT = 60
LOOK_SECONDS = 5


def serve(port: int, console: Console) -> None:
    """Start server and worker, deploy, and keep them running until SIGINT or SIGTERM.

    Raises
        ConfigError: the port is taken, or the server does not start.
    """
    settle_environment()
    url = f"http://127.0.0.1:{port}/api"
    os.environ["PREFECT_API_URL"] = url
    os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
    # In memory, the slots of a killed run would never be freed after a restart of the server.
    os.environ["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] = (
        "prefect.server.concurrency.lease_storage.filesystem"
    )
    from prefect.settings import get_current_settings

    from flows.watching import Watch

    stop = threading.Event()
    with _stopping_on_signals(stop):
        watch = Watch(get_current_settings().home / "processes")
        if ended := watch.end_leftovers():
            console.print(f"ended {ended} processes that an earlier icl-embed ui left behind")
        if answers(url):
            raise ConfigError(f"something already answers at {url}; stop it or choose another --port")
        server = Service(
            "server", watch, console, "server", "start", "--host", "127.0.0.1", "--port", str(port)
        )
        worker = Service("worker", watch, console, "worker", "start", "--pool", "local", "--type", "process")
        try:
            server.start()
            wait_for_server(server.process, url, START_SECONDS, stop)
            if not stop.is_set():
                with _client(patience=5) as client:
                    _prepare(client, watch, console)
                worker.start()
                shown = url.removesuffix("/api")
                console.print(f"\n[bold]UI: {shown}[/bold]   (Ctrl-C stops server and worker)")
                hint = command_at(url, "icl-embed run full-pipeline --preset demo")
                console.print(f"In another terminal: {hint}\n", soft_wrap=True)
                _keep(server, worker, url, watch, stop)
        finally:
            stop.clear()  # a second Ctrl-C hurries the end
            _end(server, worker, url, watch, stop, console)


class Service:
    """A long-running Prefect command, started again whenever it ends by itself."""

    def __init__(self, name: str, watch: Watch, console: Console, *arguments: str) -> None:
        self.name = name
        self._arguments = arguments
        self._watch = watch
        self._console = console
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._wait = 1
        self._due: float | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The command as it runs now, or ran last."""
        if self._process is None:
            raise ConfigError(f"the Prefect {self.name} was not started")
        return self._process

    def start(self) -> None:
        """Start the command; call it from a thread that lives as long as we do."""
        from flows.deploying import PREFECT

        # a session of its own: Ctrl-C in our terminal is for us alone, who end things in order
        self._process = subprocess.Popen(
            [*PREFECT, *self._arguments],
            preexec_fn=_become_child,  # noqa: PLW1509 - two system calls, safe between fork and exec
            start_new_session=True,
        )
        self._started, self._due = time.monotonic(), None
        self._watch.note(self.name, self._process.pid)

    def keep(self, is_ready: Callable[[], bool] = lambda: True) -> None:
        """Start the command again if it ended, after a wait that grows while it keeps ending."""
        if self._process is None or self._process.poll() is None:
            return
        now = time.monotonic()
        if self._due is None:
            if now - self._started > STEADY_SECONDS:
                self._wait = 1
            self._due = now + self._wait
            self._console.print(
                f"[yellow]the Prefect {self.name} ended (code {self._process.returncode}); "
                f"starting it again in {self._wait} s[/yellow]"
            )
            self._wait = min(2 * self._wait, LONGEST_WAIT)
        elif now >= self._due and is_ready():
            self.start()

    def end(self, hurry: threading.Event) -> None:
        """End the command: politely, and when that takes too long or ``hurry`` is set, not."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        while process.poll() is None and time.monotonic() < deadline and not hurry.is_set():
            time.sleep(0.1)
        if process.poll() is None:
            process.kill()
            process.wait()


def _prepare(client: SyncPrefectClient, watch: Watch, console: Console) -> None:
    """What a server needs before its first run: the truth about earlier runs, pool, limit, deployments."""
    from flows.deploying import create_work_pool, deploy_changed
    from flows.watching import install_automation

    watch.settle(client, "icl-embed ui was killed while this run was in progress", at_once=True)
    install_automation(client, FLOWS)
    create_work_pool(client)
    limit_accelerators(client)
    deployed = deploy_changed(client)
    console.print(f"deployed: {', '.join(deployed) or 'nothing, every definition is on the server'}")


def limit_accelerators(client: SyncPrefectClient) -> None:
    """One run at a time on this host's accelerators, unless an operator set another limit."""
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectNotFound

    from tasks.policies import accelerator_limit_name

    try:
        client.read_global_concurrency_limit_by_name(accelerator_limit_name())
    except ObjectNotFound:
        client.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(name=accelerator_limit_name(), limit=1)
        )


def _keep(server: Service, worker: Service, url: str, watch: Watch, stop: threading.Event) -> None:
    """Keep both running and the server's records true, until we are asked to stop."""
    due = 0.0
    while not stop.wait(0.5):
        server.keep()
        worker.keep(lambda: answers(url))
        watch.look(worker.process.pid)
        if time.monotonic() >= due and answers(url):
            with (
                suppress(httpx.HTTPError),
                _client(patience=0) as client,
            ):  # a server that dies meanwhile is asked again
                watch.settle(client)
            due = time.monotonic() + LOOK_SECONDS


def _end(
    server: Service, worker: Service, url: str, watch: Watch, hurry: threading.Event, console: Console
) -> None:
    """Worker, runs, their states, server: in this order, because the states need the server."""
    from flows.watching import SAVING_SECONDS

    with suppress(ConfigError):
        watch.look(worker.process.pid)
    worker.end(hurry)
    watch.wait_until_ended(SAVING_SECONDS, hurry)
    try:
        with _client(patience=3 if answers(url) else 0) as client:
            watch.settle(client, "icl-embed ui was stopped while this run was in progress", at_once=True)
    except httpx.HTTPError:
        console.print("the server does not answer: runs in progress are marked at the next start")
    server.end(hurry)
    watch.forget("server", "worker")


@contextmanager
def _client(patience: int) -> Iterator[SyncPrefectClient]:
    """A client that repeats a failed request so often; who waits for a dead server cannot start it again."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: patience}),
        get_client(sync_client=True, httpx_settings={"timeout": 30}) as client,
    ):
        yield client


def _become_child() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent()


@contextmanager
def _stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP set an event, even where the shell that started us ignores SIGINT."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # a closed terminal, unless nohup was asked for
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
