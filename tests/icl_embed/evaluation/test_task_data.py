"""Reading a dataset artefact: what is refused, and with which words."""

import pytest

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.tasks.rows import read_task_data
from tests.icl_embed.evaluation.folders import make_dataset, row, write_dataset


def refused(folder, kind, rows, match, corpus=None):
    with pytest.raises(EvaluationError, match=match):
        read_task_data(write_dataset(folder, kind, rows, corpus))


def test_only_the_test_split_and_its_passages_are_evaluated(tmp_path):
    data = read_task_data(make_dataset(tmp_path, "retrieval"))
    assert len(data.queries) == len(data.passages) == 24
    assert all(name.startswith("test-") for name in [*data.queries, *data.passages])


def test_every_passage_with_the_text_of_a_positive_is_relevant(tmp_path):
    corpus = [("p1", "all", "same"), ("p2", "all", "same"), ("p3", "all", "other")]
    data = read_task_data(
        write_dataset(tmp_path, "retrieval", [row("test", 0, "q", positives=["same"])], corpus)
    )
    assert data.relevant == {"test-000000": ("p1", "p2")}


def test_a_data_set_without_a_test_split_is_refused(tmp_path):
    refused(tmp_path, "sts", [row("train", 0, "q")], "no rows in the test split")


def test_an_empty_corpus_is_refused(tmp_path):
    rows = [row("test", 0, "q", positives=["p"])]
    refused(tmp_path, "retrieval", rows, "no passages of the test split", corpus=[("p1", "train", "p")])


def test_a_query_whose_positive_is_not_in_the_corpus_is_refused_by_row(tmp_path):
    rows = [row("test", 7, "q", positives=["lost"])]
    refused(
        tmp_path,
        "retrieval",
        rows,
        "row test-000007: 'lost' is not in the corpus",
        corpus=[("p1", "all", "p")],
    )


def test_a_query_without_positives_is_refused(tmp_path):
    refused(tmp_path, "retrieval", [row("test", 0, "q")], "has no positives", corpus=[("p1", "all", "p")])


def test_identities_that_appear_twice_are_refused(tmp_path):
    twice = [row("test", 3, "q", positives=["p"]), row("test", 3, "r", positives=["p"])]
    refused(
        tmp_path / "a", "retrieval", twice, "row_id 'test-000003' appears 2 times", corpus=[("p", "all", "p")]
    )
    once = [row("test", 3, "q", positives=["p"])]
    corpus = [("p", "all", "p"), ("p", "all", "r")]
    refused(tmp_path / "b", "retrieval", once, "passage_id 'p' appears 2 times", corpus=corpus)


def test_classification_without_a_train_split_is_refused(tmp_path):
    rows = [row("test", n, f"q{n}", label="ab"[n % 2]) for n in range(4)]
    refused(tmp_path, "classification", rows, "train split, which has 0 labels")


def test_a_test_label_that_was_never_trained_is_refused(tmp_path):
    rows = [row("train", n, f"q{n}", label="ab"[n % 2]) for n in range(4)] + [row("test", 0, "q", label="c")]
    refused(tmp_path, "classification", rows, "test label 'c' is not in the train split")


def test_a_row_without_a_label_is_refused(tmp_path):
    refused(tmp_path, "clustering", [row("test", 0, "q")], "test row test-000000 has no label")


def test_pairs_need_a_second_text_a_score_and_more_than_one_score(tmp_path):
    refused(tmp_path / "a", "sts", [row("test", 0, "q", score=1.0)], "found 0 texts and score 1.0")
    refused(tmp_path / "b", "sts", [row("test", 0, "q", positives=["p"])], "score None")
    same = [row("test", n, "q", positives=["p"], score=1.0) for n in range(3)]
    refused(tmp_path / "c", "sts", same, "all test pairs have the score 1.0")
    refused(tmp_path / "d", "pair_classification", same, "scores must be 0 and 1")


def test_reranking_needs_something_to_tell_apart(tmp_path):
    refused(tmp_path, "reranking", [row("test", 0, "q", positives=["p"])], "needs a positive and a negative")


def test_a_missing_or_broken_file_is_named(tmp_path):
    dataset = make_dataset(tmp_path, "sts")
    (tmp_path / "rows.parquet").write_bytes(b"not parquet")
    with pytest.raises(EvaluationError, match=r"cannot read .*rows\.parquet"):
        read_task_data(dataset)
    (tmp_path / "rows.parquet").unlink()
    with pytest.raises(EvaluationError, match=r"cannot read .*rows\.parquet"):
        read_task_data(dataset)
