"""A build that dies at any moment publishes nothing, and the next one writes the same bytes."""

import hashlib
import random
import signal
import subprocess
import sys
import time

import pytest

from icl_embed.store import StageKey, Store
from tests.icl_embed.pool.datasets import labelled_rows, retrieval_row, write_dataset

BUILD = """
import sys
from pathlib import Path
from icl_embed.config import PoolConfig
from icl_embed.pool.build import build_pool
from icl_embed.pool.inputs import PoolInput
from icl_embed.store import StageKey, Store

home = Path(sys.argv[1])
inputs = [
    PoolInput("facts", "retrieval", "Find.", home / "facts", True, "0"),
    PoolInput("signals", "classification", "Sort.", home / "signals", True, "0"),
]
progress = lambda what, done, total: print(what, flush=True)
key = StageKey("pool", 1, {})
Store(home / sys.argv[2]).build(
    key, lambda out: build_pool(inputs, PoolConfig(max_dropped_fraction=1.0), out, seed=1, progress=progress)
)
print("published", flush=True)
"""


def start(home, store):
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(home), store],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.parquet"))
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("killed")
    write_dataset(home / "facts", [retrieval_row(n) for n in range(800)])
    rows = [*labelled_rows(600, ["x", "y", "z"]), *labelled_rows(40, ["x"], "test")]
    write_dataset(home / "signals", rows, kind="classification")
    with start(home, "untouched") as process:
        assert "published" in process.stdout.read()
    return home


def kill_and_rebuild(home, store, wait):
    with start(home, store) as process:
        wait(process)
        process.send_signal(signal.SIGKILL)
        output = process.stdout.read()
    killed = process.returncode == -signal.SIGKILL and "published" not in output
    folder = Store(home / store).path_of("pool", StageKey("pool", 1, {}).fingerprint)
    if killed:
        assert not folder.exists(), "a killed build must not publish"
    with start(home, store) as process:
        assert "published" in process.stdout.read()
    expected = Store(home / "untouched").path_of("pool", folder.name)
    assert digests(folder) == digests(expected)
    assert len(digests(folder)) == 4
    return killed


def test_a_build_killed_in_the_middle_publishes_nothing_and_is_repeated_exactly(home):
    def until_comparing(process):
        for line in process.stdout:
            if "near-duplicates" in line:
                return

    assert kill_and_rebuild(home, "one", until_comparing), "the fault did not fire"


@pytest.mark.fault
def test_twenty_builds_killed_at_random_moments(home):
    rng = random.Random(3)
    fired = 0
    began = time.monotonic()
    with start(home, "timed") as process:
        assert "published" in process.stdout.read()
    seconds = time.monotonic() - began
    for number in range(20):
        fired += kill_and_rebuild(home, f"many-{number}", lambda _: time.sleep(rng.uniform(0.1, seconds)))
    assert fired >= 10, "too few kills hit a running build"
