"""A task's data fetched into a folder: the same task opens from it, whatever it came from."""

import dataclasses
import shutil

import pytest

from icl_embed.errors import DataError, EvaluationError, MissingTaskError
from icl_embed.evaluation.air_bench.data import write_task
from icl_embed.evaluation.air_bench.names import TaskName
from icl_embed.evaluation.tasks.fetched import fetch_task, open_fetched, origin_of
from icl_embed.evaluation.tasks.opening import TaskPlaces, open_task
from icl_embed.store import Store
from tests.icl_embed.evaluation.folders import sentence
from tests.icl_embed.evaluation.mteb.mirrors import TASKS, rewrite, write_set
from tests.icl_embed.evaluation.mteb.test_hub_layout import hub_copy, official

AIR = "air-bench/qa_healthcare_toy_en"


@pytest.fixture
def places(tmp_path):
    return TaskPlaces(Store(tmp_path / "store"), tmp_path / "mirror", tmp_path / "air")


def fetched(name, places, folder):
    """Fetch, throw the source away, and open."""
    counts = fetch_task(name, places, folder / "downloads", folder / "out")
    for source in (places.mirror, places.air_bench):
        shutil.rmtree(source, ignore_errors=True)
    return open_fetched(folder / "out", places), counts


@pytest.mark.parametrize("kind", ["retrieval", "classification", "sts"])
def test_a_task_of_a_mirror_opens_from_what_was_fetched(kind, places, tmp_path):
    write_set(places.mirror, kind)
    before = open_task(TASKS[kind], places)
    examples = before.training_examples()
    task, counts = fetched(TASKS[kind], places, tmp_path)
    assert task.facts == before.facts and task.query_texts() == before.query_texts()
    assert counts["queries"] == len(before.query_texts())
    assert [one.example for one in task.training_examples()] == [one.example for one in examples] != []


def test_a_copy_of_the_hubs_cache_keeps_its_revision(places, tmp_path):
    hub_copy(tmp_path, "sts")
    places = dataclasses.replace(places, mirror=tmp_path / "hub")
    before = open_task("STSBenchmark", places)
    task, _ = fetched("STSBenchmark", places, tmp_path)
    assert task.facts == before.facts
    assert task.facts.served_from == "mirror (hub snapshot of the official revision)"


def test_air_bench_opens_from_what_was_fetched(places, tmp_path):
    passages = {f"p{n}": sentence(n) for n in range(12)}
    queries = {f"q{n}": sentence(n, 3) for n in range(0, 12, 2)}
    relevance = {query: {query.replace("q", "p"): 1} for query in queries}
    write_task(
        places.air_bench,
        TaskName.parse(AIR),
        "dev",
        passages=passages,
        queries=queries,
        relevance=relevance,
    )
    before = open_task(AIR, places)
    task, counts = fetched(AIR, places, tmp_path)
    assert task.facts == before.facts and counts["queries"] == 6


def test_without_a_mirror_the_hubs_own_revision_is_fetched(places, tmp_path):
    """The cache stands for the hub: a commit that is there needs no network."""
    hub_copy(tmp_path, "sts")
    shutil.move(tmp_path / "hub", tmp_path / "downloads" / "hub")
    from_hub = dataclasses.replace(places, mirror=None)
    assert origin_of("STSBenchmark", from_hub)["revision"] == official("STSBenchmark")["revision"]
    task, counts = fetched("STSBenchmark", from_hub, tmp_path)
    assert task.facts.served_from == counts["served_from"] == "hub"
    assert len(task.query_texts()) == counts["queries"] > 0


def test_what_decides_the_data_is_their_content_and_not_where_they_lie(places, tmp_path):
    folder = write_set(places.mirror, "sts", zipped=False)
    first = origin_of("STSBenchmark", places)
    moved = shutil.copytree(places.mirror, tmp_path / "elsewhere")
    assert origin_of("STSBenchmark", dataclasses.replace(places, mirror=moved)) == first
    write_set(places.mirror, "retrieval")  # another set of the mirror is none of its business
    assert origin_of("STSBenchmark", places) == first
    rewrite(folder, "test.jsonl", lambda lines: lines[:-1])
    assert origin_of("STSBenchmark", places) != first


def test_a_task_that_cannot_be_had_says_what_was_looked_for(places, tmp_path):
    places.mirror.mkdir()
    assert origin_of("SciFact", places)["source"] == "missing"
    with pytest.raises(MissingTaskError, match="neither a folder whose manifest names SciFact"):
        fetch_task("SciFact", places, tmp_path / "downloads", tmp_path / "out")
    with pytest.raises(MissingTaskError, match="from the hub"):
        fetch_task(
            "SciFact", dataclasses.replace(places, mirror=None), tmp_path / "downloads", tmp_path / "other"
        )
    with pytest.raises(EvaluationError, match="fetch the task again"):
        open_fetched(tmp_path / "out", places)


def test_damaged_data_are_refused_when_they_are_fetched(places, tmp_path):
    folder = write_set(places.mirror, "sts", zipped=False)
    (folder / "test.jsonl").write_text("{")
    with pytest.raises(DataError):
        fetch_task("STSBenchmark", places, tmp_path / "downloads", tmp_path / "out")
