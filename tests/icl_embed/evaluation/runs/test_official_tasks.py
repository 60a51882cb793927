"""A run over tasks of mteb and AIR-Bench from local folders: the same path as for data of one's own."""

import json

import pytest

from icl_embed.evaluation.air_bench.data import write_task
from icl_embed.evaluation.air_bench.names import TaskName
from icl_embed.evaluation.grid import RunRequest, run_grid
from icl_embed.evaluation.measurement import Bootstrap
from icl_embed.evaluation.scores import read_examples, read_ranking, read_scores
from icl_embed.evaluation.summary import as_json, summarise
from icl_embed.evaluation.tasks.opening import TaskPlaces, task_names
from icl_embed.few_shot.settings import AskedSetting
from icl_embed.few_shot.sources import ExampleSource
from tests.icl_embed.evaluation.folders import sentence
from tests.icl_embed.evaluation.mteb.conftest import no_network_and_no_cache_left  # noqa: F401 - a fixture
from tests.icl_embed.evaluation.mteb.mirrors import LABELS, write_set

ASKED = (AskedSetting(0), AskedSetting(2))
AIR = "air-bench/qa_healthcare_toy_en"


@pytest.fixture
def mirror(tmp_path):
    for kind in ("retrieval", "classification", "sts"):
        write_set(tmp_path / "mirror", kind)
    return tmp_path / "mirror"


@pytest.fixture
def air(tmp_path):
    passages = {f"p{n}": sentence(n) for n in range(12)}
    queries = {f"q{n}": sentence(n, 3) for n in range(6)}
    relevance = {f"q{n}": {f"p{n}": 1} for n in range(6)}
    name = TaskName.parse(AIR)
    write_task(tmp_path / "air", name, "dev", passages=passages, queries=queries, relevance=relevance)
    unseen = {f"t{n}": sentence(100 + n, 4) for n in range(3)}
    write_task(tmp_path / "air", name, "test", passages=passages, queries=unseen, relevance=None)
    return tmp_path / "air"


def measure(model, store, names, **places):
    more = places.pop("more", {})
    where = TaskPlaces(store, **places)
    request = RunRequest(tuple(task_names(names, where)), ASKED, where, **more)
    return run_grid(request, model, store)


def test_tasks_of_a_mirror_are_measured_with_examples_of_their_own_training_split(store, model, mirror):
    names = ["SciFact", "Banking77Classification", "STSBenchmark"]
    outcome = measure(model, store, [*names, "EmotionClassification"], mirror=mirror)
    assert [one.task for one in outcome.missing] == ["EmotionClassification"]
    assert (outcome.failed, outcome.absent) == ([], [])
    found = [read_scores(one.artefact.path) for one in outcome.measured]
    assert [one.dataset for one in found] == [name for name in names for _ in ASKED]
    assert {one.family for one in found} == {"mteb"}
    for scores, one in zip(found, outcome.measured, strict=True):
        assert len(read_examples(one.artefact.path, scores.results[0].setting)) == scores.results[0].shots
        assert list((one.artefact.path / "mteb").glob("*.json"))
    labels = {example.response for example in read_examples(outcome.measured[3].artefact.path, "2-shot")}
    assert labels <= set(LABELS), "label texts as the training split writes them"


def test_labels_of_an_example_file_are_written_as_in_training(store, model, mirror, tmp_path):
    items = [
        {"query": "where is it?", "response": "Card Arrival"},
        {"query": "gone", "response": "lost card"},
    ]
    (tmp_path / "Banking77Classification.json").write_text(json.dumps(items))
    more = {"source": ExampleSource(files=tmp_path)}
    outcome = measure(model, store, ["Banking77Classification"], mirror=mirror, more=more)
    shown = read_examples(outcome.measured[1].artefact.path, "2-shot")
    assert {one.response for one in shown} == {"card_arrival", "lost_card"}


def test_air_bench_is_scored_where_judgements_are_public_and_ranked_where_they_are_not(store, model, air):
    dev = measure(model, store, [AIR], air_bench=air)
    (result,) = read_scores(dev.measured[0].artefact.path).results
    assert result.num_queries == 6
    test = measure(model, store, [AIR], air_bench=air, split="test")
    assert len(test.measured) == 2, "the dev queries serve as examples for the test split"
    folder = test.measured[1].artefact.path
    assert list(read_ranking(folder)) == ["t0", "t1", "t2"]
    assert "not public" in read_scores(folder).absent[0].reason
    summary = as_json(summarise(test, model.shown.name, Bootstrap(100)), model)
    assert summary["tasks"] == []
    assert len(summary["unjudged"]) == 2
