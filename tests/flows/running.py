"""A flow as a user starts it, and what its output and its store say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from icl_embed.pipeline.plan import plan
from icl_embed.pipeline.run import Run

ROOT = Path(__file__).resolve().parents[2]


def run_flow(
    flow: str, preset: Path, *overrides: str, options: Sequence[str] = (), timeout: float = 280
) -> subprocess.CompletedProcess[str]:
    """``icl-embed run … --here`` as a user would type it, with the project's own Prefect state."""
    return subprocess.run(
        flow_command(flow, preset, overrides, options),
        cwd=preset.parent,
        env=flow_environment(preset),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


MAIN = "from flows.command_line import main; main()"


def flow_command(
    flow: str,
    preset: Path,
    overrides: Sequence[str] = (),
    options: Sequence[str] = (),
    *,
    code: str = MAIN,
) -> list[str]:
    argv = [sys.executable, "-c", code, "run", flow, "--here"]
    argv += ["--preset", str(preset)]
    for override in overrides:
        argv += ["--set", override]
    return [*argv, *options]


def flow_environment(preset: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(preset.parent / ".prefect"),
        "PREFECT_LOCAL_STORAGE_PATH": str(preset.parent / ".prefect" / "storage"),
        "OMP_NUM_THREADS": "1",
    }


def stages_to_run(run: Run) -> list[str]:
    return [stage.key.stage for stage in plan(run.store, run.keys) if not stage.is_cached]


def task_states(output: str) -> Counter[str]:
    """How many stages ran, were cached and failed, as the log of a run says."""
    ends = re.compile(r"- (\S+ .*): (done in [\d.]+ s|cached, \S+|Finished in state (?:Failed|Crashed).*)$")
    states = {"d": "Completed", "c": "Cached", "F": "Failed"}
    return Counter(states[found[2][0]] for line in output.splitlines() if (found := ends.search(line)))
