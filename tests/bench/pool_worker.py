"""One build in a process of its own: ``python -m tests.bench.pool_worker ours|datasets DATA OUT LIMIT THREADS``."""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from pathlib import Path
from typing import Any

from icl_embed.config import PoolConfig
from icl_embed.pool.build import build_pool
from tests.bench.pool_datasets import build_with_datasets
from tests.bench.pool_material import material


def build_ours(data: Path, out: Path, memory_limit: str, threads: int) -> dict[str, Any]:
    """Build our pool; say when each long part began."""
    config = PoolConfig(memory_limit=memory_limit, threads=threads)
    began, begins = time.perf_counter(), {}

    def listen(what: str, behind: int, total: int) -> None:
        if what not in begins:
            begins[what] = round(time.perf_counter() - began, 1)
            logging.info("%s: %d of %d", what, behind, total)

    found = build_pool(material(data), config, out, seed=1, progress=listen)
    return {"begins": begins, **found}


def main(which: str, data: Path, out: Path, memory_limit: str, threads: int) -> None:
    """Build and leave ``report.json``."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    began = time.perf_counter()
    if which == "ours":
        found = build_ours(data, out, memory_limit, threads)
    else:
        found = build_with_datasets(data, out, threads)
    report = {"seconds": time.perf_counter() - began, "cpu_seconds": round(_cpu_seconds(), 1), **found}
    (out / "report.json").write_text(json.dumps(report))


def _cpu_seconds() -> float:
    """Of this process and of those it started and waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
