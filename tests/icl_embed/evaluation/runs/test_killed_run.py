"""SIGKILL a real run between tasks and inside one; the next run ends with equal totals and repeats nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from icl_embed.store import Store
from tests.icl_embed.evaluation.runs.killed_run import CHUNK
from tests.icl_embed.evaluation.runs.local_store import KINDS, add_dataset

ROOT = Path(__file__).resolve().parents[4]
pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]
TASKS = 10
ABOUT_THE_CLOCK = {"seconds", "query_seconds", "passage_seconds", "encoded_queries", "encoded_passages"}


def start(home, seconds):
    argv = [
        sys.executable,
        "-m",
        "tests.icl_embed.evaluation.runs.killed_run",
        home / "store",
        home / "log",
        str(seconds),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(list(map(str, argv)), cwd=ROOT, env=environment)


def finish(home):
    process = start(home, 0)
    assert process.wait() == 0
    return json.loads((home / "result.json").read_text())


def build_home(home, model):
    home.mkdir()
    shutil.copytree(model, home / "model")
    for number in range(TASKS):
        kind = KINDS[number % len(KINDS)]
        add_dataset(Store(home / "store"), f"task-{number}", kind, base=3000 * number, size=20)
    return home


def kill_when(process, is_time):
    deadline = time.monotonic() + 300
    while not is_time():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def scores(home):
    found = (home / "store" / "score").glob("*/manifest.json")
    return [path for path in found if "." not in path.parent.name]  # a dot: never published


def calls(home):
    return (home / "log").read_text().splitlines() if (home / "log").exists() else []


def timeless(value):
    if isinstance(value, dict):
        return {
            key: timeless(item)
            for key, item in value.items()
            if key not in ABOUT_THE_CLOCK | {"measured_now"}
        }
    return [timeless(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model):
    """The result of a run that nobody killed."""
    home = build_home(tmp_path_factory.mktemp("runs") / "whole", tiny_model)
    return home, finish(home)


def check_same_and_not_repeated(home, whole):
    whole_home, expected = whole
    assert timeless(finish(home)) == timeless(expected)
    assert len(expected["tasks"]) == TASKS
    counted = Counter(calls(home))
    assert set(counted) == set(calls(whole_home))
    # What was encoded when the process died, and not yet written, is the only thing encoded again.
    assert sum(counted.values()) - len(counted) <= CHUNK


def test_a_run_killed_after_three_of_ten_tasks_finishes_with_equal_totals(tmp_path, tiny_model, whole):
    home = build_home(tmp_path / "killed", tiny_model)
    kill_when(start(home, 0.05), lambda: len(scores(home)) >= 6)  # two settings each
    done = {path.parent.name: path.stat().st_mtime_ns for path in scores(home)}
    assert 6 <= len(done) < 2 * TASKS, "the fault came too late to prove anything"
    check_same_and_not_repeated(home, whole)
    for path in scores(home):
        assert done.get(path.parent.name) in (None, path.stat().st_mtime_ns), (
            "a finished cell was built again"
        )


def test_a_run_killed_inside_a_task_goes_on_inside_it(tmp_path, tiny_model, whole):
    home = build_home(tmp_path / "inside", tiny_model)
    kill_when(start(home, 0.3), lambda: len(calls(home)) >= 2 * CHUNK)
    before = len(calls(home))
    assert not scores(home), "the task was already done"
    assert before >= 2 * CHUNK
    check_same_and_not_repeated(home, whole)


def test_killed_again_and_again_it_still_ends_the_same(tmp_path, tiny_model, whole):
    home = build_home(tmp_path / "often", tiny_model)
    target = 0
    for _ in range(3):
        target = len(calls(home)) + 60
        kill_when(start(home, 0.02), lambda: len(calls(home)) >= target)  # noqa: B023
    _, expected = whole
    assert timeless(finish(home)) == timeless(expected)
    repeated = sum(Counter(calls(home)).values()) - len(set(calls(home)))
    assert repeated <= 3 * CHUNK
