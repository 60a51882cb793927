"""Whatever is killed under ``icl-embed ui``: the states are true soon after, nothing is left, and work goes on."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from icl_embed.launch.processes import start_time_of
from tests.tiny_project import build_project
from tests.ui.running_ui import RunningUi, icl_embed

LONG = ("train.optimizer.steps=1000000", "train.launch.processes=1")
TRUE_WITHIN = 120
pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def ui(project: Path) -> Iterator[RunningUi]:
    running = RunningUi(project.parent)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def other_ui(project: Path, tmp_path: Path) -> Iterator[RunningUi]:
    running = RunningUi(tmp_path)
    running.start()
    yield running
    running.stop()


def train(ui: RunningUi, project: Path) -> str:
    """A run with a limit of one at a time, in the middle of its training."""
    run = ui.create_run("full-pipeline", project, *LONG)
    ui.wait(lambda: is_training(ui, run), 180)
    return run


def is_training(ui: RunningUi, run: str) -> bool:
    assert ui.state(run) not in ("Failed", "Crashed"), ui.log.read_text()[-4000:]
    ranks = [line for line in ui.processes_of(run).values() if "icl_embed.train.embedder" in line]
    return ui.tasks(run).get("embedder tiny") == "Running" and bool(ranks)


def is_true(ui: RunningUi, run: str, state: str) -> bool:
    return ui.state(run) == state and not {"Running", "Pending"} & set(ui.tasks(run).values())


def check_work_goes_on(ui: RunningUi, run: str) -> None:
    """A retry is accepted and gets the slot that the killed run held; cancelling it leaves nothing."""
    assert ui.set_state(run, type="SCHEDULED", name="AwaitingRetry") == "ACCEPT"
    ui.wait(lambda: ui.state(run) == "Running", TRUE_WITHIN)
    assert ui.set_state(run, type="CANCELLING") == "ACCEPT", ui.ask(f"/flow_runs/{run}", "GET")["state"]
    ui.wait(lambda: is_true(ui, run, "Cancelled") and not ui.processes_of(run), TRUE_WITHIN)


KILLS = {
    "SIGKILL worker": [("prefect worker", signal.SIGKILL)],
    "SIGTERM worker": [("prefect worker", signal.SIGTERM)],
    "SIGKILL engine": [("prefect.engine", signal.SIGKILL)],
    "SIGKILL worker and engine": [("prefect worker", signal.SIGKILL), ("prefect.engine", signal.SIGKILL)],
}


@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_run_is_crashed_with_its_tasks_and_can_be_retried(
    ui: RunningUi, project: Path, kill: str
) -> None:
    run = train(ui, project)
    for pid, number in [(ui.pid_of(words), number) for words, number in KILLS[kill]]:
        os.kill(pid, number)
    seconds = ui.wait(lambda: is_true(ui, run, "Crashed"), TRUE_WITHIN)
    left = ui.wait(lambda: not ui.processes_of(run), TRUE_WITHIN)
    message = ui.ask(f"/flow_runs/{run}", "GET")["state"]["message"]
    print(f"\n{kill}: Crashed after {seconds:.0f} s ({message}); no process after {seconds + left:.0f} s")
    check_work_goes_on(ui, run)


def test_a_cancelled_run_ends_with_its_processes(ui: RunningUi, project: Path) -> None:
    run = train(ui, project)
    assert ui.set_state(run, type="CANCELLING") == "ACCEPT"
    seconds = ui.wait(lambda: is_true(ui, run, "Cancelled") and not ui.processes_of(run), TRUE_WITHIN)
    print(f"\ncancel: Cancelled without a process after {seconds:.0f} s")


def test_a_killed_server_comes_back_and_the_run_goes_on(ui: RunningUi, project: Path) -> None:
    run = train(ui, project)
    engine, server = ui.pid_of("prefect.engine"), ui.pid_of("prefect server")
    started = start_time_of(engine)
    os.kill(server, signal.SIGKILL)
    ui.wait(lambda: start_time_of(server) == "", 10)
    seconds = ui.wait(lambda: answers(ui), TRUE_WITHIN)
    assert ui.state(run) == "Running"
    assert start_time_of(engine) == started, "the server took the run down with it"
    print(f"\nSIGKILL server: answers after {seconds:.0f} s, the run goes on")
    assert ui.set_state(run, type="CANCELLING") == "ACCEPT"
    ui.wait(lambda: is_true(ui, run, "Cancelled") and not ui.processes_of(run), TRUE_WITHIN)


def test_a_killed_run_of_another_process_is_found_by_its_heartbeats(ui: RunningUi, project: Path) -> None:
    command = icl_embed("run", "train-embedder", "--here", "--preset", str(project), "--set", LONG[0])
    mine = subprocess.Popen(command, cwd=project.parent, env=ui.environment)
    named = {"flows": {"name": {"any_": ["train-embedder"]}}, "sort": "START_TIME_DESC", "limit": 1}

    def is_under_way() -> bool:
        [run] = ui.ask("/flow_runs/filter", **named) or [{"id": "", "state_name": ""}]
        return run["state_name"] == "Running" and "Running" in ui.tasks(run["id"]).values()

    ui.wait(is_under_way, 180)
    [run] = ui.ask("/flow_runs/filter", **named)
    mine.kill()
    mine.wait()
    # the automation acts three heartbeats after the last one
    seconds = ui.wait(lambda: is_true(ui, run["id"], "Crashed"), TRUE_WITHIN)
    message = ui.ask(f"/flow_runs/{run['id']}", "GET")["state"]["message"]
    print(f"\nSIGKILL of --here: Crashed after {seconds:.0f} s ({message})")
    assert "no heartbeat" in message


def test_the_next_run_completes(ui: RunningUi, project: Path) -> None:
    run = ui.create_run("train-embedder", project, "train.launch.processes=1")
    ui.wait(lambda: ui.state(run) == "Completed", 240)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_ended_ui_leaves_no_process_and_its_runs_are_crashed(
    other_ui: RunningUi, project: Path, number: int
) -> None:
    ui, run = other_ui, train(other_ui, project)
    assert ui.process is not None
    if number == signal.SIGINT:
        os.killpg(ui.process.pid, number)  # Ctrl-C: the whole terminal
    else:
        os.kill(ui.process.pid, number)
    seconds = ui.wait(lambda: ui.process and ui.process.poll() is not None, TRUE_WITHIN)
    left = ui.wait(lambda: not ui.processes_of(run) and not answers(ui), TRUE_WITHIN)
    ui.start()
    ui.wait(lambda: is_true(ui, run, "Crashed"), 20)
    message = ui.ask(f"/flow_runs/{run}", "GET")["state"]["message"]
    print(
        f"\nui {signal.Signals(number).name}: ended after {seconds:.0f} s, no process {left:.0f} s later; {message}"
    )
    check_work_goes_on(ui, run)


def answers(ui: RunningUi) -> bool:
    try:
        return httpx.get(f"{ui.url}/health", timeout=2).is_success
    except httpx.TransportError:
        return False


def test_what_a_killed_ui_could_not_end_is_ended_by_the_next(other_ui: RunningUi, project: Path) -> None:
    ui, run = other_ui, train(other_ui, project)
    assert ui.process is not None
    deaf = subprocess.Popen(
        ["python3", "-c", "import signal,time; signal.signal(15,signal.SIG_IGN); time.sleep(600)"],
        env={**os.environ, "PREFECT__FLOW_RUN_ID": run},
    )
    os.kill(ui.process.pid, signal.SIGKILL)
    ui.process.wait()
    ui.start()
    assert deaf.wait(5) == -signal.SIGKILL
    assert ui.processes_of(run) == {}
