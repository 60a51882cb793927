"""``make ui`` as a user meets it: server, worker and deployments start, a run completes, the UI shows it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.tiny_project import build_project
from tests.ui.browser import CHROMIUM, dom_of
from tests.ui.running_ui import ROOT, RunningUi, icl_embed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def ui(project: Path) -> Iterator[RunningUi]:
    running = RunningUi(project.parent)
    running.start()
    yield running
    running.stop()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{running.url}/health", timeout=2)  # nothing stays behind


@pytest.fixture(scope="module")
def environment(ui: RunningUi) -> dict[str, str]:
    return ui.environment


@pytest.fixture(scope="module")
def server(ui: RunningUi) -> str:
    return ui.url


def test_every_flow_is_deployed(server: str) -> None:
    found = httpx.post(f"{server}/deployments/filter", json={}, timeout=20).json()
    names = {
        "full-pipeline",
        "build-pool",
        "train-embedder",
        "evaluate-checkpoint",
        "re-evaluate",
        "distill-reranker",
        "ablations",
        "benchmark",
    }
    assert {deployment["name"] for deployment in found} == names
    [evaluation] = [one for one in found if one["name"] == "re-evaluate"]
    assert [schedule["active"] for schedule in evaluation["schedules"]] == [False]


def test_a_run_completes_on_the_worker_and_the_browser_shows_it(
    server: str, project: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    argv = icl_embed("run", "build-pool", "--preset", str(project))
    run = subprocess.run(
        argv, cwd=project.parent, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    url = run.stdout.split("flow-run/")[1].split()[0]
    logs = httpx.post(
        f"{server}/logs/filter",
        json={"logs": {"flow_run_id": {"any_": [url]}}, "limit": 200},
        timeout=20,
    ).json()
    shown = [line.partition(" ")[2] for line in run.stdout.splitlines()]
    told = {log["message"] for log in logs}
    assert {message: shown.count(message) for message in told} == {
        message: sum(log["message"] == message for log in logs) for message in told
    }
    assert run.stdout.splitlines()[-1].startswith("negatives/")
    name = run.stdout.split("flow run ")[1].split(":")[0]
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: the run completed, the page was not looked at")
    runs = f"{server.removesuffix('/api')}/v2/runs"
    assert name in dom_of(runs, tmp_path / "profile", patience_ms=20_000)


def test_prefects_own_command_runs_the_deployment(
    server: str, project: Path, environment: dict[str, str]
) -> None:
    argv = [sys.executable, "-m", "prefect", "deployment", "run", "build-pool/build-pool"]
    argv += ["-p", f"preset={project}", "--watch", "--watch-interval", "1"]
    run = subprocess.run(
        argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]


def test_a_failing_run_is_an_error_for_the_caller(
    server: str, project: Path, environment: dict[str, str]
) -> None:
    argv = icl_embed("run", "build-pool", "--preset", str(project), "--set", "pool.min_characters=5000")
    run = subprocess.run(
        argv, cwd=project.parent, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert run.returncode == 2
    assert "FlowFailedError" in run.stderr
    assert "Traceback" not in run.stdout + run.stderr


def test_a_preset_that_does_not_exist_is_refused_before_there_is_a_run(
    server: str, environment: dict[str, str]
) -> None:
    argv = [
        sys.executable,
        "-m",
        "prefect",
        "deployment",
        "run",
        "build-pool/build-pool",
        "-p",
        "preset=dmeo",
    ]
    run = subprocess.run(
        argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode != 0
    assert "dmeo" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
