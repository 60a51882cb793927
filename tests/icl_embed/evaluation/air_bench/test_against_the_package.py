"""The package ``air-benchmark`` reads our folders, gives our scores, and takes our archive.

It installs with ``--no-deps`` alone, so it is no dependency; with its wheel unpacked on PYTHONPATH these run.
"""

import os
import shutil

import pytest

from icl_embed.evaluation.air_bench.data import write_task
from icl_embed.evaluation.air_bench.names import TaskName, published
from icl_embed.evaluation.air_bench.submission import SearchResults, save_results
from icl_embed.evaluation.air_bench.task import open_air_bench_task
from icl_embed.evaluation.reranking import rerank
from icl_embed.evaluation.tasks.task import EvaluatedModel
from icl_embed.model.cached_encoding import CachingEncoder, Setting
from tests.icl_embed.evaluation.air_bench.conftest import OWN
from tests.icl_embed.evaluation.air_bench.test_task import BySharedWords

air_benchmark = pytest.importorskip("air_benchmark")


@pytest.fixture
def beside(mirror, tmp_path, monkeypatch):
    """The package's own loader finds repositories below a folder AIR-Bench in the working directory."""
    shutil.copytree(mirror, tmp_path / "work" / "AIR-Bench")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_the_table_of_tasks_is_the_packages():
    from air_benchmark.tasks import BenchmarkTable

    theirs = {
        (version.removeprefix("AIR-Bench_"), kind, domain, language, dataset): (
            facts["size"]["corpus"],
            facts["size"]["queries"],
        )
        for version, kinds in BenchmarkTable.items()
        for kind, in_domains in kinds.items()
        for domain, languages in in_domains.items()
        for language, datasets in languages.items()
        for dataset, facts in datasets.items()
    }
    ours = {
        (one.version, one.type, one.domain, one.language, one.dataset): (one.passages, one.queries)
        for one in published()
    }
    assert ours == theirs


def test_the_packages_evaluator_gives_equal_metrics_for_equal_rankings(beside, encoder, tmp_path):
    from air_benchmark.evaluation_utils import DataLoader, Evaluator

    task = open_air_bench_task(OWN, folder=beside / "AIR-Bench")
    model = EvaluatedModel("toy", "0123456789abcdef", tmp_path)
    first = task.run(CachingEncoder(encoder), Setting("zero-shot", "find"), model)
    data = task.data
    again = task.measure(
        rerank(first.ranking, BySharedWords(), queries=data.queries, passages=data.passages, top_k=5)
    )
    for reranker, run in (("NoReranker", first), ("words", again)):
        save_results(tmp_path / "results", SearchResults(task.name, "dev", "toy", reranker, run.ranking))
        loader = DataLoader("AIR-Bench_24.05", cache_dir=str(tmp_path / "cache"))
        theirs = Evaluator(loader).evaluate_results(
            os.fspath(tmp_path / "results" / "toy" / reranker), split="dev"
        )
        assert theirs == {"qa": {"healthcare": {"en": {"toy": run.result["metrics"]}}}}


@pytest.mark.parametrize(
    ("name", "split"),
    [("24.04/long-doc_arxiv_llm-survey_en", "test"), ("24.05/qa_wiki_zh", "test"), (OWN, "dev")],
)
def test_the_packages_loader_reads_what_we_write(toy, tmp_path, monkeypatch, name, split):
    from air_benchmark.evaluation_utils import DataLoader

    task = TaskName.parse(name)
    write_task(tmp_path / "AIR-Bench", task, split, **toy)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)
    loader = DataLoader(task.config, cache_dir=str(tmp_path / "cache"))
    asked = {
        "task_type": task.type,
        "domain": task.domain,
        "language": task.language,
        "dataset_name": task.dataset,
    }
    assert {key: row["text"] for key, row in loader.load_corpus(**asked).items()} == toy["passages"]
    assert dict(loader.load_queries(**asked, split=split)) == toy["queries"]
    assert dict(loader.load_qrels(**asked, split=split)) == toy["relevance"]


def test_the_packages_packing_script_accepts_our_results_and_packs_what_we_pack(mirror, encoder, tmp_path):
    import zipfile

    zip_results = pytest.importorskip("scripts.zip_results")
    from icl_embed.evaluation.air_bench.submission import pack_submission

    task = open_air_bench_task(OWN, folder=mirror, split="test")
    model = EvaluatedModel("toy", "0123456789abcdef", tmp_path)
    run = task.run(CachingEncoder(encoder), Setting("zero-shot", "find"), model)
    save_results(tmp_path / "results", SearchResults(task.name, "test", "toy", "NoReranker", run.ranking))
    ours = pack_submission(tmp_path / "results", tmp_path / "ours", retriever="toy")
    assert zip_results.zip_results(str(tmp_path / "results"), str(tmp_path / "theirs"), "toy")
    with zipfile.ZipFile(ours) as one, zipfile.ZipFile(tmp_path / "theirs" / ours.name) as two:
        assert one.namelist() == two.namelist()
        assert all(one.read(name) == two.read(name) for name in one.namelist())
