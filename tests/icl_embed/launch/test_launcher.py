"""The launcher against real jobs that end in every way."""

import ipaddress
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from icl_embed.config import LaunchConfig
from icl_embed.errors import StoreError, TrainingError
from icl_embed.launch.launcher import StalledJobError, WorkerLostError, _Watch, launch
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
    logs = " ".join(path.read_text() for path in (tmp_path / "work" / "logs").glob("*.log"))
    assert "rank 0 line 2" in logs and "rank 1 line 2" in logs


def test_a_typed_error_of_a_rank_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="rank said so"):
        launch(WORKER, job(tmp_path, "refuse"), tmp_path / "work", LaunchConfig(), lambda _line: None)


def test_a_crash_is_a_lost_worker_with_the_last_lines(tmp_path: Path) -> None:
    with pytest.raises(WorkerLostError, match="about to crash"):
        launch(WORKER, job(tmp_path, "crash"), tmp_path / "work", LaunchConfig(), lambda _line: None)


def test_an_error_that_nobody_foresaw_is_shown(tmp_path: Path) -> None:
    with pytest.raises(WorkerLostError, match=r"exit code 1 (.|\n)*ZeroDivisionError: nobody foresaw this"):
        launch(WORKER, job(tmp_path, "trip"), tmp_path / "work", LaunchConfig(), lambda _line: None)


def test_a_rank_whose_work_is_done_cannot_be_lost_while_its_interpreter_goes(tmp_path: Path) -> None:
    """As by a thread of Gloo that outlived its process group and wants an interpreter that is gone."""
    lines: list[str] = []
    launch(WORKER, job(tmp_path, "linger"), tmp_path / "work", LaunchConfig(), lines.append)
    assert lines == ["all is saved"]


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


def test_a_killed_rank_ends_the_job_and_the_message_says_who_and_how(tmp_path: Path) -> None:
    work = tmp_path / "work"
    ranks: list[int] = []

    def kill_the_second(_line: str) -> None:
        if not ranks:
            ranks.extend(ranks_of(work, 2))
            os.kill(ranks[1], signal.SIGKILL)

    with pytest.raises(WorkerLostError, match="rank 1 was killed by SIGKILL.*memory"):
        launch(WORKER, job(tmp_path, "sleep 3"), work, LaunchConfig(processes=2), kill_the_second)
    assert wait_until_dead(ranks) == []


def test_every_process_is_on_record_from_its_first_moment(tmp_path: Path) -> None:
    """Not only once it has imported torch: what is killed before is found by the next launch, too."""
    work = tmp_path / "work"
    seen: list[int] = []
    list_of_children = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children")
    before = list_of_children.read_text().split()  # of other tests

    def look(_line: str) -> None:
        seen.extend(ranks_of(work, 2))
        children = list_of_children.read_text().split()
        assert set(map(str, seen)) == set(children) - set(before)

    launch("tests.icl_embed.launch.bare_worker", job(tmp_path, ""), work, LaunchConfig(processes=2), look)
    assert len(seen) == 2


def test_lines_and_touches_are_signs_of_life(tmp_path: Path) -> None:
    path = tmp_path / "beat"
    watch = _Watch(path, patience=0.2)
    for sign in (watch.heard, path.touch):
        time.sleep(0.3)
        sign()
        assert not watch.is_stalled()
    time.sleep(0.3)
    assert watch.is_stalled()
    assert not _Watch(path, patience=0).is_stalled()


@pytest.mark.fault
def test_a_job_without_a_sign_of_life_is_ended_and_says_where_each_rank_stood(tmp_path: Path) -> None:
    work = tmp_path / "work"

    def stop_the_second(_line: str) -> None:
        os.kill(ranks_of(work, 2)[1], signal.SIGSTOP)

    config = LaunchConfig(processes=2, stall_seconds=5)
    with pytest.raises(StalledJobError) as caught:
        launch(WORKER, job(tmp_path, "sleep"), work, config, stop_the_second)
    message = str(caught.value)
    assert "no sign of life for 5 s" in message and "launch.stall_seconds" in message
    assert "rank 0: File" in message and "in behave" in message
    assert "rank 1: stopped by a signal" in message
    assert not list((work / "ranks").glob("*"))


@pytest.mark.fault
def test_work_that_moves_on_without_a_word_is_not_stalled(tmp_path: Path) -> None:
    launch(WORKER, job(tmp_path, "beat"), tmp_path / "work", LaunchConfig(stall_seconds=5), lambda _: None)


def test_a_job_on_one_machine_listens_to_nobody_else(tmp_path: Path) -> None:
    """Ranks meet through a file, and gloo's own sockets are on the loopback interface."""
    work = tmp_path / "work"
    seen: list[str] = []

    def look(_line: str) -> None:
        pids = [int(path.read_text().split()[0]) for path in (work / "ranks").glob("*")]
        seen.extend(address for pid in pids for address in listening(pid))

    launch(WORKER, job(tmp_path, "meet"), work, LaunchConfig(processes=2, device="cpu"), look)
    assert seen, "gloo listens somewhere: the test must see it"
    assert {address for address in seen if not address.startswith("127.")} == set()


def listening(pid: int) -> list[str]:
    """IPv4 and IPv6 addresses at which a process listens, as text."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            inodes.add(str(link.readlink()))
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                raw = bytes.fromhex(fields[1].split(":")[0])
                words = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
                address = ipaddress.ip_address(words)
                mapped = getattr(address, "ipv4_mapped", None)
                found.append(str(mapped or address))
    return found


@pytest.mark.fault
def test_a_full_disk_is_named_and_not_taken_for_a_lost_rank(small_disk: Path) -> None:
    config = LaunchConfig(processes=2)
    with pytest.raises(StoreError, match="No space left on device") as caught:
        launch(WORKER, job(small_disk, "fill"), small_disk / "work", config, lambda _line: None)
    assert str(small_disk) in str(caught.value)


def test_an_orphan_of_an_earlier_launch_is_ended_and_a_stranger_is_not(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    orphan, stranger = subprocess.Popen(sleeper), subprocess.Popen(sleeper)
    try:
        register(tmp_path, "7", os.getpid())
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
