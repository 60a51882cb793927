"""The launcher against real torchrun jobs that end in every way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icl_embed.config import LaunchConfig
from icl_embed.errors import TrainingError
from icl_embed.launch.launcher import WorkerLostError, launch
from icl_embed.launch.processes import reap_orphans, register, start_time_of

WORKER = "tests.icl_embed.launch.worker_for_tests"


def job(folder: Path, behaviour: str) -> Path:
    path = folder / "job.txt"
    path.write_text(behaviour)
    return path


def wait_until_dead(pids: list[int], seconds: float = 20) -> list[int]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(start_time_of(pid) for pid in pids):
        time.sleep(0.1)
    return [pid for pid in pids if start_time_of(pid)]


def ranks_of(work: Path, count: int) -> list[int]:
    deadline = time.monotonic() + 60
    while len(list((work / "ranks").glob("*"))) < count and time.monotonic() < deadline:
        time.sleep(0.1)
    return [int(path.read_text().split()[0]) for path in sorted((work / "ranks").glob("*"))]


def test_lines_arrive_live_and_only_from_the_first_rank(tmp_path: Path) -> None:
    seen: list[tuple[float, str]] = []
    launch(
        WORKER,
        job(tmp_path, "talk"),
        tmp_path / "work",
        LaunchConfig(processes=2),
        lambda line: seen.append((time.monotonic(), line)),
    )
    lines = [line for _, line in seen]
    assert lines == ["rank 0 line 0", "rank 0 line 1", "rank 0 line 2"]
    assert (
        seen[-1][0] - seen[0][0] > 0.5
    )  # the worker pauses between lines; a buffered pipe would not show it
    logs = " ".join(path.read_text() for path in (tmp_path / "work" / "logs").rglob("std*.log"))
    assert "rank 1 line 2" in logs


def test_a_typed_error_of_a_rank_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="rank said so"):
        launch(WORKER, job(tmp_path, "refuse"), tmp_path / "work", LaunchConfig(), lambda _line: None)


def test_a_crash_is_a_lost_worker_with_the_last_lines(tmp_path: Path) -> None:
    with pytest.raises(WorkerLostError, match="about to crash"):
        launch(WORKER, job(tmp_path, "crash"), tmp_path / "work", LaunchConfig(), lambda _line: None)


def test_an_error_in_the_listener_ends_the_job(tmp_path: Path) -> None:
    work = tmp_path / "work"

    def listen(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt):
        launch(WORKER, job(tmp_path, "sleep"), work, LaunchConfig(processes=2), listen)
    assert not list((work / "ranks").glob("*"))


def test_a_killed_caller_leaves_no_rank_behind(tmp_path: Path) -> None:
    work = tmp_path / "work"
    code = (
        "import sys; from pathlib import Path\n"
        "from icl_embed.config import LaunchConfig; from icl_embed.launch.launcher import launch\n"
        f"launch({WORKER!r}, Path(sys.argv[1]), Path(sys.argv[2]), LaunchConfig(processes=2), print)"
    )
    caller = subprocess.Popen([sys.executable, "-c", code, str(job(tmp_path, "sleep")), str(work)])
    ranks = ranks_of(work, 2)
    assert all(start_time_of(pid) for pid in ranks)
    caller.kill()
    caller.wait()
    assert wait_until_dead(ranks) == []


def test_a_killed_torchrun_leaves_no_rank_behind(tmp_path: Path) -> None:
    work = tmp_path / "work"
    ranks: list[int] = []

    def kill_the_agent(_line: str) -> None:
        if not ranks:
            ranks.extend(ranks_of(work, 2))
            parent = int(Path(f"/proc/{ranks[0]}/stat").read_text().rsplit(")", 1)[1].split()[1])
            os.kill(parent, signal.SIGKILL)

    with pytest.raises(WorkerLostError):
        launch(WORKER, job(tmp_path, "sleep"), work, LaunchConfig(processes=2), kill_the_agent)
    assert wait_until_dead(ranks) == []


def test_an_orphan_of_an_earlier_launch_is_ended_and_a_stranger_is_not(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    orphan, stranger = subprocess.Popen(sleeper), subprocess.Popen(sleeper)
    try:
        register(tmp_path, 7)
        (tmp_path / "ranks" / "7").unlink()
        (tmp_path / "ranks" / "0").write_text(f"{orphan.pid} {start_time_of(orphan.pid)}")
        (tmp_path / "ranks" / "1").write_text(f"{stranger.pid} 12345")  # the pid was given to somebody else
        assert reap_orphans(tmp_path) == 1
        assert orphan.wait(5) == -signal.SIGKILL
        assert stranger.poll() is None
    finally:
        orphan.kill()
        stranger.kill()


def test_several_nodes_need_a_meeting_point(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"launch\.rendezvous"):
        launch(WORKER, job(tmp_path, "talk"), tmp_path, LaunchConfig(nodes=2), lambda _line: None)
