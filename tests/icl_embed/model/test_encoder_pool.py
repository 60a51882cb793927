"""Several processes give the vectors of one, and none outlives the other."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from icl_embed.errors import ConfigError, ModelError
from icl_embed.examples import Example
from icl_embed.model.embedder import Embedder
from icl_embed.model.encoder_pool import EncoderPool

EXAMPLES = [Example("red cat", "blue dog"), Example("green fish", "yellow bird")]
TEXTS = [f"{word} moon star " * (number % 5 + 1) for number, word in enumerate(["sun", "cat", "fire"] * 9)]


@pytest.fixture(scope="module")
def pool(tiny_model: Path) -> Iterator[EncoderPool]:
    with EncoderPool(tiny_model, ["cpu", "cpu"], dtype="float32") as pool:
        yield pool


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids: list[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still alive after {seconds} s: {pids}"
        time.sleep(0.05)


def test_a_pool_gives_the_vectors_of_one_process(pool: EncoderPool, tiny_model: Path) -> None:
    alone = Embedder.load(tiny_model, device="cpu", dtype="float32")
    task = alone.compile_task("find", EXAMPLES)

    def close(found: np.ndarray, expected: np.ndarray) -> bool:
        return found.shape == expected.shape and np.abs(found - expected).max() < 1e-6

    for options in ({}, {"batch_tokens": 30, "truncate_dim": 9}):
        expected = alone.encode_queries(TEXTS, task=task, **options)
        assert close(pool.encode_queries(TEXTS, task=task, **options), expected)
        assert close(pool.encode_queries(TEXTS, instruction="find", examples=EXAMPLES, **options), expected)
        assert close(pool.encode_passages(TEXTS, **options), alone.encode_passages(TEXTS, **options))
    assert pool.encode_passages([]).shape == (0, 32)
    found = pool.search(TEXTS[:3], TEXTS, task=task, top_k=2)
    assert np.array_equal(found.indices, alone.search(TEXTS[:3], TEXTS, task=task, top_k=2).indices)


def test_a_pool_refuses_what_one_process_refuses(pool: EncoderPool, tiny_model: Path) -> None:
    other = replace(Embedder.load(tiny_model, device="cpu", dtype="float32"), folder=None)
    with pytest.raises(ModelError, match="another model"):
        pool.encode_queries(TEXTS, task=other.compile_task("find"))
    with pytest.raises(ConfigError, match="truncate_dim"):
        pool.encode_passages(TEXTS, truncate_dim=99)
    assert pool.encode_passages(TEXTS[:1]).shape == (1, 32), "a refused call must not close the pool"


def test_a_killed_worker_is_a_clear_error_and_leaves_nobody(tiny_model: Path) -> None:
    pool = EncoderPool(tiny_model, ["cpu", "cpu"], dtype="float32")
    pids = [worker.process.pid for worker in pool._engine._workers]
    killed = []

    def kill() -> None:
        time.sleep(0.5)
        os.kill(pids[1], signal.SIGKILL)
        killed.append(time.monotonic())

    threading.Thread(target=kill).start()
    with pytest.raises(ModelError, match=rf"on cpu \(process {pids[1]}\) was killed by SIGKILL"):
        pool.encode_passages([f"sun moon {number} " * 20 for number in range(50_000)], batch_tokens=64)
    assert time.monotonic() - killed[0] < 20
    wait_until_gone(pids, 5)
    with pytest.raises(ModelError, match="encoder workers are closed"):
        pool.encode_passages(TEXTS)


def test_a_folder_that_cannot_be_loaded_is_told_by_the_worker(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="encoder on cpu failed: "):
        EncoderPool(folder, ["cpu"], dtype="float32")


@pytest.mark.parametrize("devices", [[], "cpu"])
def test_devices_must_be_a_list(tiny_model: Path, devices: object) -> None:
    with pytest.raises(ConfigError, match="expected a list of devices"):
        EncoderPool(tiny_model, devices)


SCRIPT = """
import sys, time
from icl_embed.model.encoder_pool import EncoderPool

if __name__ == "__main__":
    pool = EncoderPool(sys.argv[1], ["cpu"], dtype="float32")
    print(pool._engine._workers[0].process.pid, flush=True)
    pool.encode_passages([f"sun moon {number} " * 20 for number in range(50_000)])
"""


@pytest.mark.fault
def test_a_worker_does_not_outlive_a_killed_parent(tiny_model: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).resolve().parents[3]
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tiny_model)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    pid = int(parent.stdout.readline())
    time.sleep(0.5)
    assert is_alive(pid)
    parent.kill()
    parent.wait()
    wait_until_gone([pid], 10)
