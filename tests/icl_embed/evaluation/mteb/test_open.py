"""Tasks of every kind from a mirror folder: what they are, what they ask, what they score."""

from pathlib import Path

import mteb
import numpy as np
import pytest

from icl_embed.errors import DataError, EvaluationError, MissingTaskError
from icl_embed.evaluation.mteb.opening import open_mteb_task
from icl_embed.evaluation.tasks.task import EvaluatedModel
from icl_embed.examples import Example
from icl_embed.model.cached_encoding import CachingEncoder, Setting
from tests.icl_embed.evaluation.mteb.mirrors import LABELS, SIZE, TASKS, write_set

MODEL = EvaluatedModel("toy", "abc", Path())
FEW = (Example("q", "r"), Example("s", "t"))


def run(task, encoder, examples=(), cached=None):
    setting = Setting("setting", task.facts.instruction, examples)
    return task.run(cached or CachingEncoder(encoder), setting, MODEL)


@pytest.mark.parametrize("kind", TASKS)
def test_a_task_of_every_kind_scores_and_its_values_aggregate_to_the_score(kind, tmp_path, encoder):
    write_set(tmp_path, kind)
    task = open_mteb_task(TASKS[kind], mirror=tmp_path)
    outcome = run(task, encoder)
    assert (task.facts.kind, task.facts.name, task.facts.served_from) == (kind, TASKS[kind], "mirror (exact)")
    assert outcome.measurement.point == pytest.approx(outcome.main_score, abs=6e-6)
    assert -1 <= outcome.main_score <= 1


@pytest.mark.parametrize("kind", TASKS)
def test_two_runs_of_a_task_draw_the_same_and_leave_nothing_behind(kind, tmp_path, encoder):
    write_set(tmp_path, kind)
    task = open_mteb_task(TASKS[kind], mirror=tmp_path)
    first, few, again = run(task, encoder), run(task, encoder, FEW), run(task, encoder)
    assert first.measurement == again.measurement
    assert first.measurement.ids == few.measurement.ids
    assert first.result["model"]["experiment_kwargs"] != few.result["model"]["experiment_kwargs"]


@pytest.mark.parametrize("kind", TASKS)
def test_a_set_without_an_mteb_task_is_scored_with_the_usual_metric(kind, tmp_path, encoder):
    write_set(tmp_path, kind, name="own", task=None, instruction="find what is meant")
    task = open_mteb_task("own", mirror=tmp_path)
    outcome = run(task, encoder)
    assert (task.facts.name, task.facts.instruction) == ("own", "find what is meant")
    assert task.facts.served_from == "mirror (local set)"
    assert outcome.result["task_name"] == "local-own"


def test_official_metadata_is_used_and_never_changed(tmp_path, encoder):
    before = mteb.get_task("SciFact").metadata.dataset
    write_set(tmp_path, "retrieval")
    task = open_mteb_task("SciFact", mirror=tmp_path)
    outcome = run(task, encoder)
    assert task.facts.instruction.startswith("Given a scientific claim")
    assert task.facts.metric == "ndcg_at_10"
    assert outcome.result["dataset_revision"] == f"local-{task.facts.data_fingerprint}"
    assert mteb.get_task("SciFact").metadata.dataset == before


def test_passages_are_read_with_their_titles_and_queries_without_examples_of_passages(tmp_path, encoder):
    write_set(tmp_path, "retrieval")
    run(open_mteb_task("SciFact", mirror=tmp_path), encoder, FEW)
    passages = [text for role, _, text in encoder.seen if role == "passage"]
    assert all(text.startswith("title ") for text in passages)
    assert {shots for role, shots, _ in encoder.seen if role == "query"} == {2}


@pytest.mark.parametrize("kind", ["sts", "pair_classification", "classification", "clustering"])
def test_symmetric_tasks_ask_with_all_their_texts(kind, tmp_path, encoder):
    write_set(tmp_path, kind)
    task = open_mteb_task(TASKS[kind], mirror=tmp_path)
    run(task, encoder)
    assert {role for role, _, _ in encoder.seen} == {"query"}
    assert set(task.query_texts()) <= {text for _, _, text in encoder.seen}
    assert task.evaluated_texts() == set(task.query_texts())


def test_settings_share_the_vectors_of_passages(tmp_path, encoder):
    write_set(tmp_path, "retrieval")
    task = open_mteb_task("SciFact", mirror=tmp_path)
    cached = CachingEncoder(encoder)
    run(task, encoder, cached=cached)
    passages = cached.effort.passages
    run(task, encoder, FEW, cached)
    assert cached.effort.passages == passages == 2 * SIZE


def test_per_query_values_are_the_textbook_ndcg(tmp_path, encoder):
    write_set(tmp_path, "retrieval")
    task = open_mteb_task("SciFact", mirror=tmp_path)
    outcome = run(task, encoder)
    for name, value in zip(outcome.measurement.ids, outcome.measurement.values, strict=True):
        found = sorted(outcome.ranking[name], key=lambda one, of=outcome.ranking[name]: (-of[one], one))
        place = found.index(f"p{name[1:]}")
        assert value == pytest.approx(1 / np.log2(place + 2) if place < 10 else 0.0)


def test_bm25_ranks_passages_and_refuses_other_tasks(tmp_path):
    write_set(tmp_path, "retrieval")
    write_set(tmp_path, "sts")
    assert open_mteb_task("SciFact", mirror=tmp_path).run_bm25().main_score > 0.5
    with pytest.raises(EvaluationError, match="BM25 ranks passages"):
        open_mteb_task("STSBenchmark", mirror=tmp_path).run_bm25()


@pytest.mark.parametrize(
    ("kind", "response"),
    [("classification", LABELS[0]), ("clustering", LABELS[0]), ("retrieval", "title 1"), ("reranking", None)],
)
def test_examples_come_from_the_training_split_alone(kind, response, tmp_path):
    write_set(tmp_path, kind)
    task = open_mteb_task(TASKS[kind], mirror=tmp_path)
    shown = task.training_examples()
    assert len(shown) == SIZE
    assert not {one.example.query for one in shown} & task.evaluated_texts()
    assert response is None or shown[0].example.response.startswith(response)
    assert bool(shown[0].label) == (kind in ("classification", "clustering"))


@pytest.mark.parametrize("kind", ["sts", "pair_classification"])
def test_only_pairs_that_mean_the_same_are_examples(kind, tmp_path):
    write_set(tmp_path, kind)
    shown = open_mteb_task(TASKS[kind], mirror=tmp_path).training_examples()
    assert 0 < len(shown) < SIZE
    assert all(not one.label for one in shown)


@pytest.mark.parametrize("kind", TASKS)
def test_a_set_without_a_training_split_has_no_examples(kind, tmp_path):
    if kind != "classification":  # whose classifier needs one
        write_set(tmp_path, kind, splits=("test",))
        assert open_mteb_task(TASKS[kind], mirror=tmp_path).training_examples() == ()


def test_bare_label_numbers_are_no_examples(tmp_path):
    folder = write_set(tmp_path, "classification", zipped=False, files={})
    for split in ("train", "test"):
        path = folder / f"{split}.jsonl"
        path.write_text(path.read_text().replace('"label_text"', '"other"'))
    assert open_mteb_task("Banking77Classification", mirror=tmp_path).training_examples() == ()


def test_another_split_can_be_asked_for(tmp_path, encoder):
    write_set(tmp_path, "sts", splits=("train", "test"))
    task = open_mteb_task("STSBenchmark", mirror=tmp_path, split="train")
    assert task.facts.split == "train"
    assert task.training_examples() == ()  # what is evaluated is no example
    run(task, encoder)


def test_a_subset_is_explicit_and_english_where_nothing_is_said(tmp_path, encoder):
    folder = write_set(tmp_path, "retrieval", task="XQuADRetrieval (subset en)")
    (folder / "qrels" / "test.tsv.gz").rename(folder / "qrels" / "validation.tsv.gz")
    task = open_mteb_task("XQuADRetrieval", mirror=tmp_path)
    assert (task.facts.subset, task.facts.split, task.facts.language) == ("en", "validation", "eng-Latn")
    assert run(task, encoder).main_score > 0
    with pytest.raises(MissingTaskError, match="has only its subset en"):
        open_mteb_task("XQuADRetrieval[de]", mirror=tmp_path)
    with pytest.raises(EvaluationError, match="no subset 'xx'"):
        open_mteb_task("XQuADRetrieval[xx]", mirror=tmp_path)


def test_an_older_clustering_task_and_its_successor_read_the_same_rows(tmp_path):
    write_set(tmp_path, "clustering", name="old")
    write_set(tmp_path, "clustering", name="new", task="TwentyNewsgroupsClustering.v2")
    old = open_mteb_task("TwentyNewsgroupsClustering", mirror=tmp_path)
    new = open_mteb_task("TwentyNewsgroupsClustering.v2", mirror=tmp_path)
    assert set(old.query_texts()) == set(new.query_texts())


def test_a_task_that_is_not_in_the_mirror_is_reported_as_missing(tmp_path):
    write_set(tmp_path, "retrieval")
    with pytest.raises(MissingTaskError, match="neither a folder whose manifest names ArguAna") as caught:
        open_mteb_task("ArguAna", mirror=tmp_path)
    assert caught.value.task == "ArguAna"
    with pytest.raises(MissingTaskError, match="there is no mirror folder"):
        open_mteb_task("ArguAna", mirror=tmp_path / "nowhere")


def test_a_set_that_is_only_related_is_never_served_as_the_task(tmp_path, encoder):
    official = {"task": "NQ", "equality": "related"}
    write_set(tmp_path, "retrieval", name="pairs", mteb=official)
    with pytest.raises(MissingTaskError, match=r"pairs is no copy of it \(related\)"):
        open_mteb_task("NQ", mirror=tmp_path)
    assert open_mteb_task("pairs", mirror=tmp_path).facts.name == "pairs"


def test_without_a_mirror_the_hub_is_asked_and_its_silence_is_told():
    with pytest.raises(MissingTaskError, match="--mirror DIR"):
        open_mteb_task("STSBenchmark")


def test_a_task_about_images_is_refused():
    with pytest.raises(EvaluationError, match="only text is embedded here"):
        open_mteb_task("CIFAR10")


def test_a_manifest_of_the_wrong_kind_is_refused(tmp_path):
    write_set(tmp_path, "sts", task="SciFact")
    with pytest.raises(DataError, match="which is a retrieval task"):
        open_mteb_task("SciFact", mirror=tmp_path)


def test_a_task_type_without_a_folder_format_points_to_the_other_layout(tmp_path):
    write_set(tmp_path, "sts", task="SummEval")
    with pytest.raises(EvaluationError, match="hub's layout"):
        open_mteb_task("SummEval", mirror=tmp_path)
