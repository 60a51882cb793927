"""The store against real kills and a really full disk."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icl_embed.errors import StoreError
from icl_embed.store import StageKey, Store

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

KEY = StageKey("pool", 1, {"size": 1})
BUILDER = """
import sys
from pathlib import Path
from icl_embed.store import StageKey, Store

def produce(folder):
    for number in range(40):
        (folder / f"{number:03d}.bin").write_bytes(bytes([number]) * 2_000_000)
    return {"files": 40}

print("started", flush=True)
Store(Path(sys.argv[1])).build(StageKey("pool", 1, {"size": 1}), produce)
print("published", flush=True)
"""


def seconds_to_build(root: Path) -> float:
    """How long the builder works after it has said that it started."""
    with subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(root)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        started = time.monotonic()
        assert process.stdout.readline() == "published\n"
        return time.monotonic() - started


def test_a_build_killed_at_any_moment_is_whole_or_absent(tmp_path: Path) -> None:
    rng = random.Random(0)
    interrupted = 0
    seconds = seconds_to_build(tmp_path / "whole")
    for round_number in range(20):
        root = tmp_path / str(round_number)
        process = subprocess.Popen(
            [sys.executable, "-c", BUILDER, str(root)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, seconds))
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        process.wait()
        store = Store(root)
        folder = store.path_of(KEY.stage, KEY.fingerprint)
        assert folder.exists() == store.is_valid(KEY), "a folder that is visible must be whole"
        if "published" in rest:
            assert store.is_valid(KEY)
        else:
            interrupted += 1
        subprocess.run([sys.executable, "-c", BUILDER, str(root)], check=True, capture_output=True)
        assert store.is_valid(KEY)
    assert interrupted >= 5, "too few kills hit a running build to prove anything"


def test_a_full_disk_is_one_clear_error_and_keeps_what_was_there(small_disk: Path) -> None:
    store = Store(small_disk)
    small = StageKey("pool", 1, {"size": 0})

    def write(megabytes: int):
        def produce(folder: Path) -> dict[str, int]:
            (folder / "data.bin").write_bytes(b"x" * (megabytes << 20))
            return {"megabytes": megabytes}

        return produce

    store.build(small, write(1))
    with pytest.raises(StoreError, match="No space left on device; nothing was published"):
        store.build(KEY, write(8))
    assert store.is_valid(small)
    assert not store.path_of(KEY.stage, KEY.fingerprint).exists()
    assert list((small_disk / "pool").glob("*.partial-*")) == []
    assert store.build(KEY, write(2)).manifest.counts == {"megabytes": 2}


def test_a_read_only_store_is_one_clear_error_and_can_still_be_read(small_disk: Path) -> None:
    store = Store(small_disk)
    small = StageKey("pool", 1, {"size": 0})
    store.build(small, lambda _folder: {"files": 0})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(
        StoreError, match=f"cannot lock {KEY.reference}: Read-only file system; make the folder"
    ):
        store.build(KEY, lambda _folder: {"files": 0})
    assert store.build(small, lambda _folder: {"files": 1}).manifest.counts == {"files": 0}
