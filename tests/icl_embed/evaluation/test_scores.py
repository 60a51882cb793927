"""The files of an evaluation, written and read in one place."""

import json

import pytest

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.scores import read_ranking, read_scores, write_ranking

OLD = {
    "dataset": "facts",
    "kind": "retrieval",
    "model": "trained",
    "model_fingerprint": "00",
    "metric": "ndcg_at_10",
    "aggregation": "mean",
    "trained_on": False,
    "confidence": 0.95,
    "results": [
        {
            "setting": "few-shot",
            "shots": 5,
            "mean": 0.5,
            "low": 0.4,
            "high": 0.6,
            "num_queries": 10,
            "seconds": 1.0,
            "query_tokens_mean": 90.0,
            "query_seconds": 0.5,
            "passage_seconds": 0.2,
            "encoded_queries": 10,
            "notes": {},
        }
    ],
    "absent": [],
}


def test_scores_written_before_a_field_existed_are_still_read(tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps(OLD))
    scores = read_scores(tmp_path)
    assert (scores.family, scores.split) == ("local", "test")
    assert (scores.results[0].quality, scores.results[0].selection) == ("clean", "")


def test_a_ranking_is_read_back_best_first_and_cut(tmp_path):
    write_ranking(tmp_path, {"q1": {"a": 0.1, "b": 0.9, "c": 0.1}, "q2": {"a": 1.0}}, depth=2)
    found = read_ranking(tmp_path)
    assert {query: list(passages.items()) for query, passages in found.items()} == {
        "q1": [("b", 0.9), ("c", 0.1)],
        "q2": [("a", 1.0)],
    }
    (tmp_path / "ranking.parquet").write_bytes(b"x")
    with pytest.raises(EvaluationError, match="cannot read"):
        read_ranking(tmp_path)
