"""The caller's side of a job: start torchrun, stream its log, clean up, explain how it ended."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from icl_embed import errors
from icl_embed.config import LaunchConfig
from icl_embed.errors import IclEmbedError, TrainingError
from icl_embed.launch.processes import die_with_parent, reap_orphans
from icl_embed.launch.worker import OUTCOME_NAME

logger = logging.getLogger(__name__)

GRACE_SECONDS = 60  # a stopped job finishes its step and saves before it is killed
LINES_KEPT = 30
FIRST_RANK = "[default0]:"  # torchrun's mark on the lines of rank 0


class WorkerLostError(IclEmbedError):
    """A rank died without saying why (killed, out of memory, node lost); trying again resumes."""


def launch(
    module: str, job_path: Path, work_dir: Path, config: LaunchConfig, on_line: Callable[[str], None]
) -> None:
    """Run ``python -m module job_path`` on every rank and wait until all are done.

    Call it from a thread that lives as long as the job (see ``die_with_parent``). Ranks of an earlier launch
    that still run are ended first. Full logs of each rank are kept in ``work_dir/logs``.

    Raises
        IclEmbedError: the error a rank reported, as its own type.
        WorkerLostError: a rank ended without reporting one.
    """
    reap_orphans(work_dir)
    (work_dir / OUTCOME_NAME).unlink(missing_ok=True)
    process = subprocess.Popen(
        _command(module, job_path, work_dir, config),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
        errors="replace",
        env=_environment(),
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl call, safe between fork and exec
    )
    tail: deque[str] = deque(maxlen=LINES_KEPT)
    try:
        if process.stdout is None:
            raise WorkerLostError("the launcher gave no output pipe")
        for line in process.stdout:
            text = line.rstrip()
            if text.startswith(FIRST_RANK):
                on_line(text.removeprefix(FIRST_RANK))
            if (
                text.startswith(FIRST_RANK) or "exitcode" in text
            ):  # torchrun's own traceback says nothing more
                tail.append(text.removeprefix(FIRST_RANK).strip())
        process.wait()
    finally:
        _end(process)
        reap_orphans(work_dir)
    if process.returncode != 0:
        raise _explain(process.returncode, work_dir, tail)


def _command(module: str, job_path: Path, work_dir: Path, config: LaunchConfig) -> list[str]:
    if config.nodes > 1:
        if not config.rendezvous:
            raise TrainingError(
                "launch.nodes is above 1: set launch.rendezvous to host:port of the first node"
            )
        where = [
            "--nnodes",
            str(config.nodes),
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            config.rendezvous,
        ]
    else:
        where = ["--standalone"]
    return [
        sys.executable, "-m", "torch.distributed.run", *where,
        "--nproc-per-node", str(config.processes),
        "--log-dir", str(work_dir / "logs"), "--tee", "3", "--local-ranks-filter", "0",
        "-m", module, str(job_path),
    ]  # fmt: skip


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    environment["PYTHONUNBUFFERED"] = "1"
    environment["TOKENIZERS_PARALLELISM"] = "false"
    environment.setdefault("OMP_NUM_THREADS", "1")  # each rank sets its own share of the cores
    environment["PYTHONWARNINGS"] = "ignore::FutureWarning"
    return environment


def _end(process: subprocess.Popen[str]) -> None:
    """End a launcher that still runs: politely, so that ranks save, then not."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _explain(code: int, work_dir: Path, tail: deque[str]) -> IclEmbedError:
    try:
        outcome = json.loads((work_dir / OUTCOME_NAME).read_bytes())
    except (OSError, ValueError):
        last = "\n  ".join(tail)
        return WorkerLostError(
            f"a rank died without a message (launcher exit code {code}); it may have been killed or out of "
            f"memory. Run again to resume from the last checkpoint. All logs: {work_dir / 'logs'}. "
            f"Last lines:\n  {last}"
        )
    kind = getattr(errors, outcome["kind"], None)
    if isinstance(kind, type) and issubclass(kind, IclEmbedError):
        return kind(outcome["message"])
    return WorkerLostError(outcome["message"])
