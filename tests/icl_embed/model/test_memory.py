"""Running out of memory: the budget is halved, the result stays the same."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from icl_embed.errors import ModelError
from icl_embed.model.memory import TOKENS_IN_CACHE, MemoryLimit, is_out_of_memory


def holding(num_tokens: int, error: type[Exception] = torch.OutOfMemoryError) -> object:
    """A device that holds so many tokens; a row's vector is its tokens' sum and its length."""

    def embed(rows: list[list[int]]) -> torch.Tensor:
        sizes.append(sum(map(len, rows)))
        if sizes[-1] > num_tokens:
            raise error("DefaultCPUAllocator: can't allocate memory")
        return torch.tensor([[sum(row), len(row)] for row in rows])

    sizes: list[int] = []
    embed.sizes = sizes
    return embed


CPU = torch.device("cpu")
ROWS = [[number] * (number % 7 + 1) for number in range(100)]
EXPECTED = [[sum(row), len(row)] for row in ROWS]


@pytest.mark.parametrize("room", [7, 8, 50, 399, 10_000])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_rows_come_back_in_order_whatever_fits(room: int, error: type[Exception]) -> None:
    limit, embed = MemoryLimit(CPU), holding(room, error)
    assert limit.run(ROWS, embed).tolist() == EXPECTED
    tries = len(embed.sizes)
    assert limit.run(ROWS, embed).tolist() == EXPECTED
    assert max(embed.sizes[tries:]) <= room, "what was learned in one call was forgotten in the next"


def test_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        MemoryLimit(CPU).run(ROWS, holding(10))
    assert caplog.text.count("out of memory with a batch of 395 tokens") == 1
    assert len(caplog.records) == 1


def test_one_row_that_does_not_fit_is_a_clear_error() -> None:
    with pytest.raises(ModelError, match="one text of 7 tokens does not fit the memory"):
        MemoryLimit(CPU).run(ROWS, holding(6))


def test_other_errors_are_not_taken_for_it() -> None:
    def embed(_: object) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        MemoryLimit(CPU).run(ROWS, embed)
    assert not is_out_of_memory(ValueError("out of memory"))


SCRIPT = """
import ctypes, logging, resource, sys
import numpy as np
from icl_embed.model.embedder import Embedder

logging.basicConfig(stream=sys.stdout)
embedder = Embedder.load(sys.argv[1], device="cpu", dtype="float32")
texts = [f"sun moon star {number} " * 100 for number in range(150)]
expected = embedder.encode_passages(texts, batch_tokens=2_000)
embedder._memory.tokens = None  # as on a device that has no cache to respect
for megabytes in (64, 32, 24, 16, 8):
    ctypes.CDLL(None).malloc_trim(0)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), resource.RLIM_INFINITY))
    found = embedder.encode_passages(texts, batch_tokens=1_000_000)
    print("close", np.abs(found - expected).max() < 1e-5)
    if embedder._memory.tokens is not None:
        break
"""


# The limit is on addresses. glibc keeps those of freed memory, and reserves some for every thread: without this
# it would be chance whether half a batch finds room where a whole one did not.
FREED_IS_FREE = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 16)}


@pytest.mark.fault
def test_a_process_that_really_runs_out_of_memory_goes_on(tiny_model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_model)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | FREED_IS_FREE,
    )
    assert "out of memory with a batch of" in done.stdout, done.stdout + done.stderr
    assert "close True" in done.stdout and "close False" not in done.stdout, done.stdout + done.stderr


def test_a_cpu_gets_batches_that_fit_its_cache() -> None:
    rows = [[1] * 100] * 50
    embed = holding(100_000)
    MemoryLimit(CPU).run(rows, embed)
    assert max(embed.sizes) <= TOKENS_IN_CACHE < sum(embed.sizes) == 5000
