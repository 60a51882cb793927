"""Variants of a training, each with several seeds, side by side on one accelerator, until the time is up.

``python -m tests.bench.learn --variants tests/bench/variants.toml --jobs preset:3 none:3 --minutes 8``

A small model leaves a large GPU idle between its kernels, so several trainings share it. What is done when the
time is up is kept: the store has every score, and the next call goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import tomllib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from icl_embed.launch.processes import die_with_parent
from icl_embed.pipeline.build import build
from icl_embed.pipeline.run import open_run
from icl_embed.store.files import write_atomically
from tests.bench.machine import describe_machine


@dataclass(frozen=True)
class Job:
    """One variant with one seed."""

    variant: str
    seed: int
    overrides: tuple[str, ...]
    own_sets: bool

    @property
    def name(self) -> str:
        """As a file name."""
        return f"{self.variant}.{self.seed}"


def jobs_of(told: Mapping[str, Any], common: Sequence[str], seeds: Mapping[str, int]) -> list[Job]:
    """Each variant with its first seed, then with the next: what is cut off leaves whole rounds.

    ``told`` is the file of variants: those ``reported`` are measured on more tasks and on own data sets.
    """

    def job(name: str, seed: int) -> Job:
        is_reported = name in told["reported"]
        tasks = [*told["choosing"], *(told["reporting"] if is_reported else ())]
        evaluated = f"evaluate.tasks={json.dumps(tasks)}"
        overrides = (*told["common"], evaluated, *common, *told["variants"][name], f"train.seed={seed}")
        return Job(name, seed, overrides, is_reported)

    return [
        job(name, seed)
        for seed in range(max(seeds.values()))
        for name, count in seeds.items()
        if seed < count
    ]


def prepare(job: Job, preset: str) -> None:
    """Build the data that all variants share, once."""
    run = open_run(preset, job.overrides)
    for key in (*run.keys.datasets.values(), run.keys.pool, run.keys.negatives):
        build(run, key)


def run_jobs(jobs: Sequence[Job], preset: str, out: Path, *, parallel: int, seconds: float) -> None:
    """Keep ``parallel`` processes busy until all jobs are done or the time is up; then end them."""
    waiting, running = deque(jobs), dict[Job, subprocess.Popen[bytes]]()
    end = time.monotonic() + seconds
    try:
        while (waiting or running) and time.monotonic() < end:
            while waiting and len(running) < parallel:
                job = waiting.popleft()
                running[job] = _start(job, preset, out)
            time.sleep(0.2)
            for job in [job for job, process in running.items() if process.poll() is not None]:
                print(
                    f"{time.monotonic() - end + seconds:6.0f} s  {job.name} ended {running[job].returncode}"
                )
                del running[job]
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _start(job: Job, preset: str, out: Path) -> subprocess.Popen[bytes]:
    asked = out / f"{job.name}.asked.json"
    result = out / f"{job.name}.json"
    told = {"preset": preset, "overrides": job.overrides, "own_sets": job.own_sets, "out": str(result)}
    asked.write_text(json.dumps(told))
    with (out / f"{job.name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.bench.learn_one", str(asked)],
            stdout=log,
            stderr=log,
            preexec_fn=partial(die_with_parent, parent=os.getpid()),  # noqa: PLW1509 - two system calls
        )


def results_of(out: Path) -> dict[str, Any]:
    """What every job has found so far."""
    paths = sorted(path for path in out.glob("*.json") if path.stem.rpartition(".")[2].isdigit())
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def main() -> None:
    """Run, and write ``learn.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--variants", type=Path, required=True, help="TOML: as variants.toml beside this")
    parser.add_argument("--jobs", nargs="+", required=True, help="variant:seeds, e.g. preset:3 none:3")
    parser.add_argument(
        "--set", dest="common", action="append", default=[], help="an override of all variants"
    )
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--prepared", action="store_true", help="the store has the data already")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    told = tomllib.loads(options.variants.read_text(encoding="utf-8"))
    seeds = {name: int(count or 1) for name, _, count in (one.partition(":") for one in options.jobs)}
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    jobs = jobs_of(told, options.common, seeds)
    if not options.prepared:
        prepare(jobs[0], options.preset)
    run_jobs(jobs, options.preset, options.out, parallel=options.parallel, seconds=60 * options.minutes)
    found = {
        "machine": describe_machine(options.parallel) | {"accelerator": accelerator()},
        "command": " ".join(sys.argv[1:]),
        "seconds": round(time.perf_counter() - started, 1),
        "jobs": results_of(options.out),
    }
    write_atomically(options.out / "learn.json", json.dumps(found, indent=1).encode())


def accelerator() -> str:
    """The name of the GPU, or that there is none."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"


if __name__ == "__main__":
    main()
