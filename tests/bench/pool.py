"""Time and memory of building a pool, from 10⁵ to 10⁷ texts, and against the same steps by ``datasets``.

make bench-pool                                          # the committed result; half an hour
make bench-pool BENCH_ARGS='--sizes 20000 --peer 20000 --out quick.json'
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb

from tests.bench.machine import describe_machine
from tests.bench.measured import run_measured
from tests.bench.options import OUR_PYTHON, RESULTS
from tests.bench.pool_material import write_material

SIZES = (100_000, 1_000_000, 10_000_000)
PEER_TEXTS = 1_000_000


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="texts of the pools")
    parser.add_argument(
        "--peer", type=int, default=PEER_TEXTS, help="texts of the comparison; 0 leaves it out"
    )
    parser.add_argument("--memory-limit", default="4GB")
    parser.add_argument("--threads", type=int, default=2, help="of the pool, and processes of datasets")
    parser.add_argument("--scratch", type=Path, help="folder for the material (10⁷ texts need about 25 GB)")
    parser.add_argument("--out", type=Path, default=RESULTS / "pool.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        result = measure(options, Path(scratch))
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"written to {options.out}\n")


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Everything the result says."""
    machine = describe_machine(options.threads) | {"duckdb": duckdb.__version__}
    pools: dict[int, dict[str, Any]] = {}
    peer, speedup = None, {}
    for texts in options.sizes:
        data = scratch / f"data-{texts}"
        write_material(data, texts)
        pools[texts] = found = _run("ours", data, options, scratch)
        found["texts"] = found.pop("tables")["texts"]
        if texts == options.peer:
            peer = _run("datasets", data, options, scratch)
            speedup = {
                "speedup_vs_datasets": round(peer["seconds"] / found["seconds"], 2),
                "cpu_speedup_vs_datasets": round(peer["cpu_seconds"] / found["cpu_seconds"], 2),
                "compared_texts": texts,
            }
        shutil.rmtree(data)
    sizes = sorted(pools)
    largest, before = sizes[-1], sizes[-2] if len(sizes) > 1 else sizes[-1]
    flat = f"per_row_{_short(largest)}_vs_{_short(before)}"

    def ratio(what: str) -> float:
        new, old = (pools[texts][what] / pools[texts]["texts"] for texts in (largest, before))
        return round(new / old, 3)

    return {
        "what": "pools of made-up texts (tests/bench/pool_material.py): five to a row, and a tenth as many rows "
        "of one labelled text; cpu_seconds count all processes and threads, and depend less on the load than seconds do",
        "memory_limit": options.memory_limit,
        "largest": largest,
        "peak_rss_gb": max(found["peak_rss_gb"] for found in pools.values()),
        f"time_{flat}": ratio("seconds"),
        f"cpu_time_{flat}": ratio("cpu_seconds"),
        **speedup,
        "pools": pools,
        "datasets": peer,
        "machine": machine,
    }


def _run(which: str, data: Path, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    out = scratch / "out"
    out.mkdir()
    arguments = [which, str(data), str(out), options.memory_limit, str(options.threads)]
    command = [str(OUR_PYTHON), "-m", "tests.bench.pool_worker", *arguments]
    # the peer's processes must agree on what a text's hash is
    mebibytes = run_measured(command, {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}, scratch / "log")
    report: Mapping[str, Any] = json.loads((out / "report.json").read_text())
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    shutil.rmtree(out)
    found = {**report, "seconds": round(report["seconds"], 2), "peak_rss_gb": round(mebibytes / 1024, 2)}
    found["written_gb"] = round(size / 2**30, 2)
    sys.stdout.write(json.dumps({"built by": which, **found}) + "\n")
    sys.stdout.flush()
    return found


def _short(texts: int) -> str:
    return f"{texts // 10**6}m" if texts >= 10**6 else f"{texts // 1000}k"


if __name__ == "__main__":
    main()
