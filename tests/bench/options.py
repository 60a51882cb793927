"""The options that both benchmarks have, and where their results go."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.protocol import ROOT

OUR_PYTHON = Path(sys.executable)
RESULTS = Path(__file__).parent / "results"


def common_options(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--layers", type=int, default=0, help="keep the model's first N layers; 0 keeps all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--quick", action="store_true", help="tiny model, made-up texts: a test of the benchmark"
    )
    parser.add_argument(
        "--set", action="append", default=[], help="override of the demo preset, e.g. its paths"
    )
    parser.add_argument("--out", type=Path, help="result file, instead of the committed one")
    parser.add_argument(
        "--bench-venv",
        type=Path,
        default=Path(os.environ.get("BENCH_VENV", ROOT / ".venv-bench")),
        help="environment of the peers (make bench-venv)",
    )
    return parser


def peer_python(options: argparse.Namespace) -> Path:
    """The peers' interpreter; the driver ends with a hint if there is none."""
    python: Path = (ROOT / options.bench_venv).absolute() / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"{python} does not exist; run `make bench-venv` or give --bench-venv")
    return python


def write_result(options: argparse.Namespace, name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """Write and return the result; a quick look never replaces a measurement."""
    if options.quick and options.out is None:
        return dict(result)
    path: Path = options.out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"written to {path}\n")
    return dict(result)
