"""Kill the whole flow while it trains; run the same command again; get the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from icl_embed.launch.processes import processes_with, start_time_of
from icl_embed.pipeline.run import open_run
from icl_embed.store.files import sha256_of
from tests.flows.running import flow_command, flow_environment
from tests.tiny_project import build_project

SLOWER = ["train.optimizer.steps=60", "train.optimizer.save_every=5"]
pytestmark = [pytest.mark.fault, pytest.mark.timeout(900)]


def start(preset: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        flow_command("train-embedder", preset, SLOWER),
        cwd=preset.parent,
        env=flow_environment(preset),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def weights(preset: Path) -> str:
    run = open_run(str(preset), SLOWER)
    return sha256_of(run.artefact(run.keys.embedder).path / "model.safetensors")


def read_until(process: subprocess.Popen[str], text: str) -> str:
    seen = ""
    assert process.stdout is not None
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} never appeared:\n{seen[-3000:]}")


def living(pids: list[int]) -> list[int]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(start_time_of(pid) for pid in pids):
        time.sleep(0.1)
    return [pid for pid in pids if start_time_of(pid)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_flow_killed_in_training_resumes_to_the_same_weights(tmp_path: Path, number: int) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, killed = build_project(tmp_path / "whole"), build_project(tmp_path / "killed")
    uninterrupted = start(whole)
    out, _ = uninterrupted.communicate()
    assert uninterrupted.returncode == 0, out[-3000:]

    first = start(killed)
    read_until(first, "step 23/60")
    run = open_run(str(killed), SLOWER)
    work = run.store.work_dir(run.keys.embedder)
    ranks = [int(path.read_text().split()[0]) for path in (work / "ranks").glob("*")]
    assert len(ranks) == 2
    os.kill(first.pid, number)
    first.wait()
    assert living(ranks) == [], "ranks outlived the flow"
    assert not run.store.is_valid(run.keys.embedder), "the fault came too late to prove anything"
    left = processes_with("PREFECT_HOME", str(tmp_path / "killed" / ".prefect"))
    assert living(left) == [], "a launcher or a server outlived the flow"

    second = start(killed)
    out, _ = second.communicate()
    assert second.returncode == 0, out[-3000:]
    assert "resumed after step" in out
    built = [line for line in out.splitlines() if ": starts, as " in line]
    assert len(built) == 1, "only the training runs again"
    assert "embedder" in built[0]
    assert weights(killed) == weights(whole)
