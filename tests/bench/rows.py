"""Memory of a rank and of a batch worker from 10 thousand to 2 million rows (``make bench-rows``).

Rows have 15 negatives; a step is prepared as in training, by the rank itself and by a worker. Every process is watched
from outside: its peak resident memory as the kernel counts it, and the part of it that is its own. Pages of a mapped
file count as resident until they are let go of, but the kernel may take them back at any time; what runs out is the
anonymous memory. Both are reported, and the figure promised, ``peak_2m_vs_10k``, is the larger growth of the two, of
rank or worker, from the smallest size to the largest.

The same steps are prepared by the code of an older commit, on the same rows, at sizes that it can hold. The result goes
to ``tests/bench/results/rows.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.machine import describe_machine
from tests.bench.options import write_result
from tests.bench.protocol import ROOT, WorkerError
from tests.bench.rounds import Announcer, Say
from tests.bench.rows_material import write_rows
from tests.bench.rows_watch import Watched
from tests.tiny_models import build_model

NAME = "rows"
BEFORE = "0face7a"  # the last commit whose ranks hold every row as Python objects
SPEED = "steps_per_cpu_second"  # of all processes together; by the clock the machine's other work would count
SETTING: Mapping[str, Any] = {
    "batch_size": 32,
    "num_negatives": 7,
    "prompt": {"query_tokens": 64, "passage_tokens": 64, "total_tokens": 512},
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 2_000_000])
    parser.add_argument("--negatives", type=int, default=15)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison with the older code")
    parser.add_argument("--before", default=BEFORE, help="the older commit")
    parser.add_argument(
        "--before-sizes", type=int, nargs="*", default=[10_000, 100_000], help="that it can hold"
    )
    parser.add_argument("--scratch", type=Path, help="folder on a disk with room for the largest size")
    parser.add_argument("--quick", action="store_true", help="write no result unless --out says where")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    about = describe_machine(1)
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        bench = RowsBenchmark(Path(scratch), options.steps, options.before, Announcer())
        curve = [
            bench.measure(size, options.negatives, options.rounds if size in options.before_sizes else 0)
            for size in options.sizes
        ]
    return write_result(
        options,
        NAME,
        {
            **summarise(curve),
            "curve": curve,
            "setting": {
                "negatives": options.negatives,
                "steps": options.steps,
                "rounds": options.rounds,
                "before": options.before,
                **SETTING,
            },
            **about,
        },
    )


def summarise(curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What grows from the smallest size to the largest, and how fast steps are against the older code."""
    first, last = curve[0], curve[-1]
    growth = {
        f"{who}_{what}": round(last["now"][who][what] / first["now"][who][what], 3)
        for who in ("rank", "worker")
        for what in ("peak_mib", "peak_own_mib")
    }
    return {
        "peak_2m_vs_10k": max(growth.values()),
        "growth": growth,
        "from_rows": first["rows"],
        "to_rows": last["rows"],
        "speed_vs_before": {
            str(one["rows"]): {
                way: round(one["now"][SPEED][way] / one["before"][SPEED][way], 3)
                for way in ("in_line", "worker")
            }
            for one in curve
            if "before" in one
        },
    }


class RowsBenchmark:
    """Rows of one size after the other, in a folder that never holds two."""

    def __init__(self, folder: Path, steps: int, before: str, say: Say) -> None:
        self.folder, self.steps, self.say = folder, steps, say
        self.model = build_model(folder / "model", layers=2)
        self.code = {"now": ROOT, "before": _code_of(before, folder / "before")}

    def measure(self, size: int, negatives: int, rounds: int) -> dict[str, Any]:
        """All figures of one size; the older code takes turns with this one, or does not take part."""
        home = self.folder / f"{size}"
        home.mkdir()
        rows = write_rows(home / "train.parquet", size, negatives)
        copying = self._run("now", home, "copy")
        found: dict[str, Any] = {
            "rows": size,
            "train_parquet_mib": round(rows.stat().st_size / 2**20),
            "mapped_mib": round((home / "work" / "rows.arrow").stat().st_size / 2**20),
            "copy": {"peak_mib": copying["peak_mib"], "seconds": copying["seconds"]},
        }
        turns: dict[str, list[dict[str, Any]]] = {
            name: [] for name in (("now", "before") if rounds else ("now",))
        }
        for _ in range(max(1, rounds)):
            for name, mine in turns.items():
                mine.append({way: self._run(name, home, way) for way in ("in_line", "worker")})
        found |= {name: _medians(mine) for name, mine in turns.items()}
        shutil.rmtree(home)
        self.say(json.dumps(found))
        return found

    def _run(self, code: str, home: Path, way: str) -> dict[str, Any]:
        request = {
            "way": way, "model": str(self.model), "rows": str(home / "train.parquet"), "work": str(home / "work"),
            "steps": self.steps, "setting": SETTING, "outcome": str(home / "outcome.json"),
        }  # fmt: skip
        path = home / "request.json"
        path.write_text(json.dumps(request), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(self.code[code]), "OMP_NUM_THREADS": "1"}
        environment["TOKENIZERS_PARALLELISM"] = "false"
        script = Path(__file__).with_name("rows_worker.py")
        with (home / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, str(script), str(path)], cwd=home, env=environment, stdout=log, stderr=log
            )
            peaks = Watched(process.pid).until(lambda: process.poll() is not None)
        if process.returncode:
            raise WorkerError(f"{way} by {code} failed:\n{(home / 'log.txt').read_text()[-3000:]}")
        return {**json.loads((home / "outcome.json").read_bytes()), **peaks}


def _code_of(commit: str, folder: Path) -> Path:
    """The library as it was."""
    folder.mkdir()
    packed = subprocess.run(
        ["git", "archive", commit, "icl_embed"], cwd=ROOT, check=True, capture_output=True
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    return folder


def _medians(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The largest memory and the median speed; the rank is measured where it prepares the steps itself."""

    def largest(way: str, field: str) -> int:
        return round(max(one[way][field] for one in turns))

    return {
        "rank": {
            "peak_mib": largest("in_line", "peak_mib"),
            "peak_own_mib": largest("in_line", "peak_own_mib"),
        },
        "worker": {
            "peak_mib": largest("worker", "child_peak_mib"),
            "peak_own_mib": largest("worker", "child_peak_own_mib"),
        },
        **{
            name: {way: round(median(one[way][name] for one in turns), 2) for way in ("in_line", "worker")}
            for name in (SPEED, "steps_per_second", "seconds_to_first_step")
        },
    }


if __name__ == "__main__":
    started = time.monotonic()
    main()
    sys.stdout.write(f"{time.monotonic() - started:.0f} s\n")
