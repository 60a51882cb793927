"""Benchmark tasks in the flows: every score a cached Prefect task, data fetched once, what is missing told."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from icl_embed.evaluation.air_bench.data import write_task
from icl_embed.evaluation.air_bench.names import TaskName
from icl_embed.evaluation.scores import read_scores
from icl_embed.pipeline.benchmarks import planned_keys
from icl_embed.pipeline.plan import plan
from icl_embed.pipeline.run import Run, open_run
from icl_embed.store import Store
from tests.flows.running import run_flow, task_states
from tests.icl_embed.evaluation.folders import sentence
from tests.icl_embed.evaluation.mteb.mirrors import write_set
from tests.tiny_project import build_project

AIR = "air-bench/qa_healthcare_toy_en"
TASKS = ["SciFact", "Banking77Classification", "STSBenchmark", AIR]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a mirror of three tasks and a folder of AIR-Bench."""
    root = tmp_path_factory.mktemp("benchmark")
    preset = build_project(root)
    for kind in ("retrieval", "classification", "sts"):
        write_set(root / "mirror", kind)
    passages = {f"p{n}": sentence(n) for n in range(12)}
    queries = {f"q{n}": sentence(n, 3) for n in range(0, 12, 2)}
    relevance = {query: {query.replace("q", "p"): 1} for query in queries}
    write_task(
        root / "air", TaskName.parse(AIR), "dev", passages=passages, queries=queries, relevance=relevance
    )
    return preset


def benchmark(
    preset: Path, tasks: list[str], *overrides: str, mirror: Path | None = None
) -> CompletedProcess[str]:
    root = preset.parent
    asked = [f"evaluate.tasks={json.dumps(tasks)}", f"evaluate.mirror={mirror or root / 'mirror'}"]
    asked += [f"evaluate.air_bench={root / 'air'}", "evaluate.prompt.query_tokens=128"]
    options = ["--model", str(root / "model"), "--model", "bm25"]
    return run_flow("benchmark", preset, *asked, *overrides, options=options)


@pytest.mark.slow
def test_every_score_is_a_prefect_task_and_the_second_run_is_cached(project: Path) -> None:
    first = benchmark(project, [*TASKS, "data/tiny-notes", "NFCorpus"])
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    store = Store(project.parent / "store")
    scores = [one for one in store.artefacts() if one.stage == "score"]
    assert {read_scores(one.path).dataset for one in scores} == {
        *TASKS[:3],
        AIR.removeprefix("air-bench/"),
        "data/tiny-notes",
    }
    assert len(scores) == 5 * 2 + 5  # zero-shot and few-shot of the model, and BM25
    absent = [read_scores(one.path) for one in scores if read_scores(one.path).absent]
    assert len(absent) == 2 + 1  # BM25 on what is not ranked, and few-shot without a training split
    assert "| model | SciFact | ndcg_at_10 | zero-shot |" in first.stdout
    assert "NFCorpus is missing: the mirror" in first.stdout.replace("\n", " ")
    second = benchmark(project, [*TASKS, "data/tiny-notes"])
    assert second.returncode == 0, second.stderr[-3000:]
    assert set(task_states(second.stdout + second.stderr)) == {"Cached"}


def test_a_missing_task_fails_the_run_where_that_is_asked_for(project: Path) -> None:
    stopped = benchmark(project, ["NFCorpus"], "evaluate.on_missing=fail")
    assert stopped.returncode == 2
    assert "1 of 1 benchmark tasks cannot be had" in stopped.stderr


@pytest.mark.slow
def test_the_whole_pipeline_scores_benchmarks_and_its_report_shows_them(project: Path) -> None:
    root = project.parent
    asked = [f"evaluate.tasks={json.dumps([*TASKS, 'NFCorpus'])}", f"evaluate.mirror={root / 'mirror'}"]
    asked += [f"evaluate.air_bench={root / 'air'}", "evaluate.prompt.query_tokens=128"]
    asked += ["evaluate.rerank_top_k=5"]
    first = run_flow("full-pipeline", project, *asked)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    run = open_run(str(project), asked)
    [page] = (root / "store" / "report").glob("*/index.html")
    text = page.read_text()
    assert 'id="benchmark-table"' in text
    assert text.count('<td data-label="task">SciFact</td>') == 1 + 2 + 2 + 2  # BM25, base, trained, reranked
    assert "NFCorpus is missing" in text
    missing = 1
    planned = plan(run.store, planned_keys(run))
    assert {one.key.stage for one in planned if not one.is_cached} <= {"task-data", "score", "report"}
    assert sum(one.key.stage == "task-data" for one in planned if not one.is_cached) == missing
    started = time.monotonic()
    second = run_flow("full-pipeline", project, *asked)
    assert second.returncode == 0
    states = task_states(second.stdout + second.stderr)
    assert set(states) == {"Cached", "Failed"} and states["Failed"] == missing
    assert time.monotonic() - started < 120
    check_the_flow_benchmark_finds_the_same_scores(project, run)


def check_the_flow_benchmark_finds_the_same_scores(project: Path, run: Run) -> None:
    """The run's own models named by hand: searches as they are, and in the reranker's order."""
    tasks = ["SciFact", "Banking77Classification"]
    asked = [f"evaluate.tasks={json.dumps(tasks)}", f"evaluate.mirror={project.parent / 'mirror'}"]
    asked += ["evaluate.prompt.query_tokens=128", "evaluate.rerank_top_k=5"]
    options = ["--model", run.keys.embedder.reference, "--reranker", run.keys.reranker.reference]
    found = run_flow("benchmark", project, *asked, options=options)
    assert found.returncode == 0, found.stderr[-3000:]
    assert task_states(found.stdout + found.stderr) == {
        "Cached": 2 + 3 * 2
    }  # nothing is reranked in banking77


@pytest.mark.slow
def test_a_changed_mirror_is_fetched_again(project: Path, tmp_path: Path) -> None:
    mirror = shutil.copytree(project.parent / "mirror", tmp_path / "mirror")
    path = next(mirror.glob("toy-sts/test.jsonl.gz"))
    manifest = json.loads((path.parent / "manifest.json").read_bytes())
    manifest["licence"] = "another"
    (path.parent / "manifest.json").write_text(json.dumps(manifest))
    run = benchmark(project, ["STSBenchmark"], mirror=mirror)
    assert run.returncode == 0, run.stderr[-3000:]
    assert task_states(run.stdout + run.stderr)["Completed"] == 4  # data, two settings, BM25
