"""Search and metrics against slow, obvious references."""

import math

import numpy as np
import pytest

from icl_embed.evaluation.air_bench.ranking import averaged, score_queries, search, search_bm25
from icl_embed.examples import Example
from icl_embed.model.cached_encoding import CachingEncoder, Setting
from tests.icl_embed.evaluation.folders import HashEncoder, sentence

SETTING = Setting("few-shot", "find", (Example("q", "r"),))


def slow_ranking(encoder, queries, passages, top_k):
    """Every cosine, one by one."""
    found = {}
    for query, text in queries.items():
        one = encoder.encode_queries([text], instruction="find", examples=SETTING.examples)[0]
        scored = []
        for passage, other in passages.items():
            two = encoder.encode_passages([other])[0]
            scored.append((float(one @ two / np.linalg.norm(one) / np.linalg.norm(two)), passage))
        found[query] = sorted(scored, key=lambda item: (-item[0], item[1]))[:top_k]
    return found


@pytest.mark.parametrize("at_once", [1, 7, 1000])
@pytest.mark.parametrize("top_k", [1, 5, 100])
def test_search_in_portions_finds_what_comparing_one_by_one_finds(encoder, toy, monkeypatch, at_once, top_k):
    monkeypatch.setattr("icl_embed.model.search.BLOCK_PASSAGES", at_once)
    queries, passages = toy["queries"], toy["passages"]
    found = search(
        CachingEncoder(encoder),
        SETTING,
        queries=queries,
        passages=passages,
        top_k=top_k,
    )
    expected = slow_ranking(encoder, queries, passages, top_k)
    for query, ranked in found.items():
        assert list(ranked) == [passage for _, passage in expected[query]]
        assert list(ranked.values()) == pytest.approx([score for score, _ in expected[query]], abs=1e-6)


class OneHot(HashEncoder):
    """Dot products without rounding: a longer vector's sum depends on where BLAS cuts it."""

    def _vectors(self, texts, salt):
        return np.eye(1, self.dimension, dtype=np.float32).repeat(len(texts), axis=0)


def test_equal_scores_keep_the_order_of_the_corpus_across_portions(prompts, monkeypatch):
    encoder = OneHot(prompts)
    passages = {f"p{n}": f"text {n}" for n in range(9)}
    for at_once in (2, 4, 9):
        monkeypatch.setattr("icl_embed.model.search.BLOCK_PASSAGES", at_once)
        found = search(
            CachingEncoder(encoder),
            SETTING,
            queries={"q": "text"},
            passages=passages,
            top_k=5,
        )
        assert list(found["q"]) == ["p0", "p1", "p2", "p3", "p4"]


def test_bm25_ranks_what_shares_a_word_and_nothing_else():
    found = search_bm25({"q": "red bird", "r": "zzz"}, {"a": "red bird", "b": "red stone", "c": "blue fish"})
    assert list(found["q"]) == ["a", "b"]
    assert found["r"] == {}


def random_case(seed, queries=20, passages=60):
    generator = np.random.default_rng(seed)
    relevance, ranking = {}, {}
    for query in range(queries):
        judged = generator.choice(passages, size=generator.integers(1, 12), replace=False)
        relevance[f"q{query}"] = {f"p{row}": int(generator.integers(0, 4)) for row in judged}
        ranked = generator.choice(passages, size=30, replace=False)
        ranking[f"q{query}"] = {f"p{row}": float(30 - place) for place, row in enumerate(ranked)}
    return relevance, ranking


def slow_scores(grades, ranked, k):
    """Each metric by its definition; ndcg with linear gains, as trec_eval has it."""
    order = sorted(ranked, key=lambda key: -ranked[key])
    gains = [grades.get(key, 0) for key in order[:k]]
    ideal = sorted(grades.values(), reverse=True)[:k]
    dcg, best = (sum(g / math.log2(i + 2) for i, g in enumerate(line)) for line in (gains, ideal))
    relevant = sum(grade > 0 for grade in grades.values())
    hits = [index for index, gain in enumerate(gains) if gain > 0]
    precisions = [(number + 1) / (index + 1) for number, index in enumerate(hits)]
    return {
        f"ndcg_at_{k}": dcg / best if best else 0.0,
        f"recall_at_{k}": len(hits) / relevant if relevant else 0.0,
        f"precision_at_{k}": len(hits) / k,
        f"map_at_{k}": sum(precisions) / relevant if relevant else 0.0,
        f"mrr_at_{k}": 1 / (hits[0] + 1) if hits else 0.0,
    }


@pytest.mark.parametrize("seed", range(5))
def test_every_metric_of_every_query_is_its_definition(seed):
    relevance, ranking = random_case(seed)
    scores = score_queries(relevance, ranking)
    for query, grades in relevance.items():
        for k in (1, 3, 5, 10, 100, 1000):
            for name, value in slow_scores(grades, ranking[query], k).items():
                assert scores[query][name] == pytest.approx(value), (query, name)
    mean = sum(values["ndcg_at_10"] for values in scores.values()) / len(scores)
    assert averaged(scores)["ndcg_at_10"] == pytest.approx(mean, abs=5.1e-6)


def test_a_query_that_found_nothing_counts_as_zero():
    scores = score_queries({"a": {"x": 1}, "b": {"x": 1}}, {"a": {"x": 1.0}, "b": {}})
    assert averaged(scores)["ndcg_at_10"] == 0.5


def test_a_query_with_irrelevant_judgements_alone_counts_as_zero():
    assert score_queries({"a": {"x": 0}}, {"a": {"x": 1.0}})["a"]["recall_at_10"] == 0.0


def test_texts_are_encoded_once_for_all_settings(encoder, toy):
    cached = CachingEncoder(encoder)
    for setting in (SETTING, Setting("zero-shot", "find"), SETTING):
        search(cached, setting, queries=toy["queries"], passages=toy["passages"])
    assert len(encoder.seen) == len(set(encoder.seen))
    assert cached.effort.passages == len(toy["passages"]) and sentence(0) in toy["passages"].values()
