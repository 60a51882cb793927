from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval

from icl_embed.evaluation.reranker.candidates import ndcg_at_10, recall_at_10, reciprocal_rank_at_10


def test_metrics_agree_with_trec_eval_also_where_the_first_stage_missed_relevant_passages() -> None:
    generator = np.random.default_rng(0)
    names = [f"p{number}" for number in range(30)]
    for missed in (0, 1, 5):
        for _ in range(20):
            relevance = generator.integers(0, 3, size=30)
            relevance[0] = 1
            scores = generator.permutation(30).astype(float)
            judgements = dict(zip(names, relevance.tolist(), strict=True))
            judgements |= {f"missed{number}": 2 for number in range(missed)}
            judged = [grade for grade in judgements.values() if grade]
            judge = pytrec_eval.RelevanceEvaluator({"q": judgements}, {"ndcg_cut.10", "recall.10"})
            found = judge.evaluate({"q": dict(zip(names, scores.tolist(), strict=True))})["q"]
            assert ndcg_at_10(relevance.tolist(), scores, judged) == pytest.approx(found["ndcg_cut_10"])
            assert recall_at_10(relevance.tolist(), scores, judged) == pytest.approx(found["recall_10"])


def test_the_reciprocal_rank_looks_at_ten_passages() -> None:
    relevance = [0] * 9 + [1, 1]
    assert reciprocal_rank_at_10(relevance, range(11, 0, -1)) == pytest.approx(0.1)
    assert reciprocal_rank_at_10([0] * 10 + [1], range(11, 0, -1)) == 0.0


def test_nothing_relevant_is_zero_and_equal_scores_keep_the_first_stages_order() -> None:
    assert ndcg_at_10([0, 0], [1.0, 2.0]) == recall_at_10([0, 0], [1.0, 2.0]) == 0.0
    assert ndcg_at_10([1, 0], [1.0, 1.0]) == 1.0
