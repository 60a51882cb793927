"""Freed memory stays with the process, in a process of its own: the C library is set once for all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, resource, torch
from icl_embed.model.cpu.heap import give_back_freed_memory, keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        tensors = [torch.ones(1 << 19) for _ in range(20)]  # 2 MiB each
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def megabytes():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

# By default it is chance whether freed memory ends the heap and is handed back; so it always is.
ctypes.CDLL("libc.so.6").mallopt(-3, 1 << 16)
handed_back = faults()
keep_freed_memory()
faults()
kept = faults()
large = megabytes()
give_back_freed_memory()
print(handed_back, kept, large - megabytes())
"""


def measure(**variables: str) -> list[int]:
    """Page faults of some tensors before and afterwards, and MiB that can be given back."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
    )
    return [int(word) for word in run.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own calls")
def test_freed_tensors_are_used_again_without_asking_the_system() -> None:
    handed_back, kept, given_back = measure()
    assert handed_back > 1000
    assert kept < handed_back / 20
    assert given_back >= 8


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own calls")
def test_what_the_environment_says_about_memory_stands() -> None:
    handed_back, kept, _ = measure(MALLOC_MMAP_THRESHOLD_=str(1 << 16))
    assert kept > handed_back / 2
