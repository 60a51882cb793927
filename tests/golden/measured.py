"""Figures that a change of structure must not move: a loss curve, scores of every kind of task, a vector, a plan.

``python -m tests.golden.measured`` writes them to ``golden.json`` beside this file: do that only in a change that
means to alter them, and say so in its message.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from typer.testing import CliRunner

from flows.command_line import app
from icl_embed import Embedder, Example
from icl_embed.errors import IclEmbedError
from icl_embed.evaluation.air_bench.data import write_task
from icl_embed.evaluation.air_bench.names import TaskName
from icl_embed.model.cpu import kernels
from icl_embed.pipeline.run import open_run
from icl_embed.store import Store
from icl_embed.store.manifest import processor
from tests.icl_embed.evaluation.folders import sentence
from tests.icl_embed.evaluation.mteb.mirrors import write_set
from tests.icl_embed.evaluation.runs.local_store import KINDS, add_dataset
from tests.tiny_models import build_model
from tests.training_jobs import make_job, run_job, write_rows

GOLDEN = Path(__file__).parent / "golden.json"
STEPS = 20
EXAMPLES = (Example("where is the cat", "the cat sleeps"), Example("what is red", "fire is red"))


def measure(folder: Path) -> dict[str, Any]:
    """All figures, made in an empty folder.

    By one thread, as two add up in another order, and with torch's own products, as other processors take
    others.
    """
    torch.set_num_threads(1)
    model = build_model(folder / "model", layers=4)
    with patch.object(kernels, "onednn_is_faster", return_value=False):
        return _figures(folder, model)


def _figures(folder: Path, model: Path) -> dict[str, Any]:
    return {
        "processor": f"{processor()}, {torch.backends.cpu.get_cpu_capability()}",  # one name, two kinds
        "losses": losses(folder, model),
        "scores": scores(folder, model),
        "vector": compiled_vector(model),
        "plan": demo_plan(folder),
    }


def losses(folder: Path, model: Path) -> list[float]:
    """The loss of each of the first steps, on one rank."""
    job = make_job(
        folder / "job",
        model,
        write_rows(folder / "rows.parquet"),
        optimizer={"steps": STEPS, "save_every": 20},
    )
    log, _ = run_job(job, folder / "job")
    return [line["loss"] for line in log]


def scores(folder: Path, model: Path) -> dict[str, list[float]]:
    """Mean, low and high of every task and setting: own data sets, a mirror of mteb, a folder of AIR-Bench."""
    store = Store(folder / "store")
    own = [add_dataset(store, kind, kind, base=1000 * number) for number, kind in enumerate(KINDS)]
    for kind in ("retrieval", "classification", "sts"):
        write_set(folder / "mirror", kind)
    air = {f"p{n}": sentence(n) for n in range(20)}
    asked = {f"q{n}": sentence(n, 3) for n in range(0, 20, 2)}
    relevance = {f"q{n}": {f"p{n}": 1} for n in range(0, 20, 2)}
    name = TaskName.parse("air-bench/qa_healthcare_toy_en")
    write_task(folder / "air", name, "dev", passages=air, queries=asked, relevance=relevance)
    tasks = [*own, "SciFact", "Banking77Classification", "STSBenchmark", "air-bench/qa_healthcare_toy_en"]
    out = folder / "scores.json"
    argv = [
        "eval",
        "run",
        "--model",
        str(model),
        "--name",
        "toy",
        "--tasks",
        ",".join(tasks),
        "--shots",
        "0,2",
    ]
    argv += [
        "--store",
        str(store.root),
        "--mirror",
        str(folder / "mirror"),
        "--air-bench",
        str(folder / "air"),
    ]
    argv += ["--tokens", "128,64,512", "--device", "cpu", "--json", str(out)]
    done = CliRunner().invoke(app, argv)
    if isinstance(done.exception, IclEmbedError):
        raise done.exception
    result = json.loads(out.read_bytes())
    assert done.exit_code == 0, [result["missing"], result["failed"]]
    return {
        f"{task['task']}, {group['group']}": [group[part] for part in ("mean", "low", "high")]
        for task in result["tasks"]
        for group in task["groups"]
    }


def compiled_vector(model: Path) -> list[float]:
    """A query's vector under a compiled task."""
    embedder = Embedder.load(model, device="cpu", dtype="float32")
    task = embedder.compile_task("Find what answers", EXAMPLES)
    vector: list[float] = np.asarray(embedder.encode_queries(["where is the dog"], task=task))[0].tolist()
    return vector


def demo_plan(folder: Path) -> list[str]:
    """The stages of the demo, in order."""
    run = open_run("demo", [f"paths.store={folder / 'empty'}"])
    return [f"{key.stage} {key.label}" for key in run.keys]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder))
    GOLDEN.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"wrote {GOLDEN}\n")


if __name__ == "__main__":
    main()
