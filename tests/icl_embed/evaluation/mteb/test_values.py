"""The values behind every main score that text tasks of mteb declare, or an honest word that there are none."""

import json

import pytest

from icl_embed.evaluation.mteb.opening import open_mteb_task
from tests.icl_embed.evaluation.mteb.mirrors import SIZE, rewrite, write_set
from tests.icl_embed.evaluation.mteb.test_open import run


def scored(mirror, kind, name, encoder):
    write_set(mirror, kind, task=name)
    return run(open_mteb_task(name, mirror=mirror), encoder)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("GermanGovServiceRetrieval", "ndcg_at_5"),
        ("GermanQuAD-Retrieval", "mrr_at_5"),
        ("FeedbackQARetrieval", "precision_at_1"),
        ("LIMITRetrieval", "recall_at_2"),
        ("LoTTE (subset writing_search)", "hit_rate_at_5"),
    ],
)
def test_every_measure_of_a_ranking_has_its_value_per_query(name, metric, tmp_path, encoder):
    folder = write_set(tmp_path, "retrieval", task=name, zipped=False)
    rewrite(folder, "qrels/test.tsv", lambda lines: [_hard_to_find(line) for line in lines])
    name = "LoTTE[writing_search]" if "LoTTE" in name else name
    task = open_mteb_task(name, mirror=tmp_path)
    outcome = run(task, encoder)
    assert task.facts.metric == metric
    assert (outcome.measurement.aggregation, len(outcome.measurement.ids)) == ("mean", SIZE)
    assert 0 < outcome.measurement.point < 1  # a constant would agree with anything
    assert outcome.measurement.point == pytest.approx(outcome.main_score, abs=6e-6)


def _hard_to_find(line):
    """Every third query is answered by a passage that shares nothing with it."""
    query, passage, grade = line.split("\t")
    hard = passage[1:].isdigit() and int(passage[1:]) % 3 == 0
    return "\t".join([query, "p1001" if hard else passage, grade])


def test_a_score_that_is_no_mean_over_queries_stands_alone_and_says_so(tmp_path, encoder):
    outcome = scored(tmp_path, "reranking", "MindSmallReranking", encoder)
    assert outcome.measurement.values == (outcome.main_score,)
    assert outcome.notes["interval"].startswith("none: mteb gives no value per test item")


def test_macro_f1_has_a_value_per_classifier(tmp_path, encoder):
    outcome = scored(tmp_path, "classification", "FinToxicityClassification.v2", encoder)
    assert outcome.measurement.aggregation == "replicates"
    assert len(outcome.measurement.values) == 10
    assert "not over test texts" in outcome.notes["interval"]


def test_texts_with_several_labels_have_a_value_per_classifier(tmp_path, encoder):
    folder = write_set(tmp_path, "classification", task="MalteseNewsClassification", zipped=False)
    for split in ("train", "test"):
        rewrite(folder, f"{split}.jsonl", lambda lines: [_with_two_labels(line) for line in lines])
    outcome = run(open_mteb_task("MalteseNewsClassification", mirror=tmp_path), encoder)
    assert outcome.measurement.ids[0] == "classifier-000"
    assert outcome.measurement.point == pytest.approx(outcome.main_score)


def _with_two_labels(line):
    row = json.loads(line)
    return json.dumps({"text": row["text"], "label": [row["label"], 3]})


def test_the_best_accuracy_of_pairs_has_no_value_per_pair(tmp_path, encoder):
    outcome = scored(tmp_path, "pair_classification", "LegalBenchPC", encoder)
    assert outcome.measurement.values == (outcome.main_score,)
