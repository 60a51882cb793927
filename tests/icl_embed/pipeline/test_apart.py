"""Stages in a process apart: the same artefact, what it says is heard, and the ends that such a process has."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from icl_embed.errors import StoreError
from icl_embed.launch.launcher import WorkerLostError
from icl_embed.launch.processes import children_of, start_time_of
from icl_embed.pipeline import apart
from icl_embed.pipeline.apart import build_apart, end_child, runs_model
from icl_embed.pipeline.build import build
from icl_embed.pipeline.run import Run, open_run
from icl_embed.store import StageKey
from tests.tiny_project import build_project

ROOT = Path(__file__).resolve().parents[3]
DENSE = ['negatives.methods=["dense"]', "negatives.max_positive_ratio=100"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose inputs of the stage ``negatives`` are built."""
    found = open_run(str(build_project(tmp_path_factory.mktemp("project"))), DENSE)
    for key in (*found.keys.datasets.values(), found.keys.pool, found.keys.base_model):
        build(found, key)
    return found


@pytest.fixture(autouse=True)
def no_child() -> Iterator[None]:
    yield
    end_child()


def other(run: Run, seed: int) -> StageKey:
    """Negatives that are not built yet."""
    key = run.keys.negatives
    return replace(key, settings=key.settings | {"seed": seed})


def test_another_process_builds_the_same_and_what_it_says_is_heard(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    started: list[int] = []
    with caplog.at_level(logging.INFO, "icl_embed"):
        build_apart(run, other(run, 1), on_start=lambda: started.append(apart._children[0].process.pid))
    assert started == [apart._children[0].process.pid] and started[0] != os.getpid()
    assert {record.name.partition(".")[0] for record in caplog.records} == {"icl_embed"}
    again = build_apart(run, other(run, 2))
    assert apart._children[0].process.pid == started[0], "stages that follow each other share their process"
    rows = (again.path / "train.parquet").read_bytes()
    again.path.rename(again.path.with_name("aside"))
    assert (build(run, other(run, 2)).path / "train.parquet").read_bytes() == rows


def test_what_is_there_already_needs_no_process(run: Run) -> None:
    build(run, other(run, 3))
    build_apart(run, other(run, 3))
    assert not apart._children


def test_an_error_keeps_its_type_and_the_process_serves_on(run: Run) -> None:
    broken = replace(other(run, 4), inputs={**run.keys.negatives.inputs, "pool": "pool/0123456789abcdef"})
    with pytest.raises(StoreError, match="pool/0123456789abcdef|no pool"):
        build_apart(run, broken)
    before = apart._children[0].process.pid
    build_apart(run, other(run, 5))
    assert apart._children[0].process.pid == before


def test_a_fault_nobody_foresaw_brings_its_traceback_and_ends_the_process(run: Run) -> None:
    settings = {name: value for name, value in run.keys.negatives.settings.items() if name != "negatives"}
    broken = replace(run.keys.negatives, settings=settings)
    with pytest.raises(KeyError) as caught:
        build_apart(run, broken)
    assert "in build_negatives" in "".join(caught.value.__notes__)
    assert not apart._children


def test_an_error_of_the_listener_is_no_loss(run: Run) -> None:
    def fail() -> None:
        raise OSError("the server is away")

    with pytest.raises(OSError, match="the server is away"):
        build_apart(run, other(run, 10), on_start=fail)
    assert not apart._children
    assert build_apart(run, other(run, 10)).path.is_dir()


def test_a_killed_process_is_a_lost_worker_and_trying_again_works(run: Run) -> None:
    def kill() -> None:
        os.kill(apart._children[0].process.pid, signal.SIGKILL)

    with pytest.raises(WorkerLostError, match="was killed by SIGKILL .*memory runs out"):
        build_apart(run, other(run, 6), on_start=kill)
    assert build_apart(run, other(run, 6)).path.is_dir()


def test_a_process_that_left_for_want_of_work_is_replaced(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    build_apart(run, other(run, 7))
    first = apart._children[0].process
    first.terminate()
    first.wait()
    build_apart(run, other(run, 8))
    assert apart._children[0].process.pid != first.pid


def test_it_is_gone_before_a_training_starts(run: Run) -> None:
    build_apart(run, other(run, 9))
    pid = apart._children[0].process.pid
    with pytest.raises(StoreError):  # its negatives are not there; nothing is trained
        build_apart(run, run.keys.embedder)
    assert not start_time_of(pid) and not apart._children


def test_bm25_alone_runs_no_model(run: Run) -> None:
    plain = open_run(run.preset, ['negatives.methods=["bm25"]'])
    assert runs_model(run.keys.negatives) and not runs_model(plain.keys.negatives)
    assert not runs_model(run.keys.embedder), "its ranks are processes of their own"


SCRIPT = """
import sys
from icl_embed.pipeline.apart import build_apart
from icl_embed.pipeline.run import open_run
run = open_run(sys.argv[1], sys.argv[2:])
build_apart(run, run.keys.negatives, on_start=lambda: (print("began", flush=True), sys.stdin.read()))
"""


def test_it_does_not_outlive_a_killed_flow(run: Run) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, run.preset, *DENSE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout.readline() == "began\n"
    (child,) = children_of(parent.pid)
    os.kill(child, signal.SIGSTOP)  # in the middle of its work
    parent.kill()
    parent.wait()
    os.kill(child, signal.SIGCONT)
    deadline = time.monotonic() + 20
    while start_time_of(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not start_time_of(child)
