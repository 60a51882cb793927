"""What each strategy chooses."""

from collections import Counter

import numpy as np
import pytest

from icl_embed.bm25 import Bm25Index
from icl_embed.config import EvaluateConfig, SelectionConfig
from icl_embed.errors import ConfigError
from icl_embed.few_shot.candidates import Candidates
from icl_embed.few_shot.strategies import NearestExamples, choose_setting
from icl_embed.pool.examples import choose_examples

INSTRUCTION = "find the similar text"
ONE_SET = ("fixed", "random", "diverse", "balanced")


@pytest.fixture
def candidates(pool, encoder):
    return Candidates.read(pool, "answers", instruction=INSTRUCTION, encoder=encoder)


@pytest.fixture
def labelled(pool, encoder):
    return Candidates.read(pool, "labels", instruction=INSTRUCTION, encoder=encoder)


def choose(strategy, candidates, seed=0, shots=4, **options):
    config = EvaluateConfig(shots=shots, selection=SelectionConfig(**options))
    return choose_setting(strategy, candidates, config, seed=seed)


@pytest.mark.parametrize("strategy", ONE_SET)
def test_one_set_serves_all_queries(candidates, strategy):
    setting = choose(strategy, candidates)
    assert len(set(setting.examples)) == 4
    assert set(setting.examples) <= {row.example for row in candidates.rows}
    assert setting == choose(strategy, candidates)
    selection = setting.selection(["one", "two", "three"])
    assert (selection.sets, selection.set_of) == ((setting.examples,), (0, 0, 0))


def test_fixed_is_the_pools_own_draw(pool, candidates):
    assert choose("fixed", candidates, seed=5).examples == tuple(choose_examples(pool, "answers", 4, 5))


def test_random_draws_depend_on_the_seed_and_cover_the_candidates(candidates):
    draws = [choose("random", candidates, seed=seed).examples for seed in range(60)]
    assert len(set(draws)) > 50
    shown = Counter(example for examples in draws for example in examples)
    assert len(shown) > 0.9 * len(candidates.rows)
    assert max(shown.values()) < 15


def test_fixed_and_random_need_no_vectors(candidates, encoder):
    choose("fixed", candidates)
    choose("random", candidates)
    assert encoder.seen == []


@pytest.mark.parametrize("method", ["mmr", "k_center"])
def test_diverse_begins_with_the_most_typical_and_spreads_out(candidates, method):
    vectors = candidates.vectors
    setting = choose("diverse", candidates, diverse_by=method)
    rows = [[row.example for row in candidates.rows].index(example) for example in setting.examples]
    assert rows[0] == int(np.argmax(vectors @ vectors.mean(axis=0)))
    likeness = vectors[rows] @ vectors[rows].T
    everywhere = vectors @ vectors.T
    if method == "k_center":
        assert (
            likeness[np.triu_indices(4, 1)].max()
            < np.median(everywhere[np.triu_indices(len(vectors), 1)]) + 0.05
        )


def test_balanced_shows_every_label_with_its_most_typical_text(labelled):
    examples = choose("balanced", labelled, shots=6).examples
    assert sorted(Counter(example.response for example in examples).values()) == [2, 2, 2]
    assert len({example.response for example in examples[:3]}) == 3
    members = [n for n, row in enumerate(labelled.rows) if row.label == examples[0].response]
    mean = labelled.vectors[members].mean(axis=0)
    best = max(members, key=lambda n: float(labelled.vectors[n] @ mean))
    assert labelled.rows[best].example == examples[0]


def test_nearest_by_vectors_is_brute_force_nearest_without_the_query_itself(candidates):
    own = candidates.rows[7].example.query
    selection = NearestExamples(candidates, 3)([own.upper().replace(" ", "  "), own])
    vector = candidates.query_vectors([own])[0]
    order = sorted(range(len(candidates.rows)), key=lambda n: -float(candidates.vectors[n] @ vector))
    expected = [n for n in order if n != 7][:3]
    assert [selection.sets[selection.set_of[1]]] == [candidates.examples(expected)]
    assert all(example.query != own for examples in selection.sets for example in examples)


def test_nearest_by_words_is_bm25_filled_up_from_the_draw(candidates):
    chooser = NearestExamples(candidates, 3, by="bm25", max_sets=16)
    index = Bm25Index.build([row.example.query for row in candidates.rows])
    query = "amber17 and cedar23"
    scores = index.scores(query)
    assert (scores > 0).sum() < 3
    (found,) = chooser([query]).sets
    drawn = [n for n in candidates.drawn(0) if not scores[n]]
    ranked = [int(n) for n in np.argsort(-scores, kind="stable") if scores[n] > 0]
    assert found == candidates.examples([*ranked, *drawn][:3])
    assert "a set per query" in chooser.name


def test_a_query_without_a_word_of_any_candidate_is_told(candidates, caplog):
    chooser = NearestExamples(candidates, 3, by="bm25")
    (found,) = chooser(["вопрос"]).sets
    assert found == candidates.examples(candidates.drawn(0)[:3])
    assert "answers: 1 of 1 queries have no word that any candidate has" in caplog.text


def test_routed_queries_share_a_few_sets_and_do_not_influence_each_other(candidates):
    chooser = NearestExamples(candidates, 3, max_sets=5)
    queries = [f"birch {n} lies by the fjord {n % 7}" for n in range(40)]
    together = chooser(queries)
    assert 1 < len(together.sets) <= 5
    alone = [chooser([query]).sets[0] for query in queries]
    assert [together.sets[number] for number in together.set_of] == alone


def test_routed_queries_are_never_shown_themselves(candidates):
    chooser = NearestExamples(candidates, 3, max_sets=2)
    queries = [row.example.query for row in candidates.rows]
    selection = chooser(queries)
    for query, number in zip(queries, selection.set_of, strict=True):
        assert query not in [example.query for example in selection.sets[number]]
        assert len(selection.sets[number]) == 3


def test_nearest_with_mmr_avoids_repeating_itself(candidates):
    plain, spread = (
        NearestExamples(candidates, 5, by=by, relevance_share=0.3)(["amber birch"]).sets[0]
        for by in ("dense", "mmr")
    )
    assert plain[0] == spread[0]
    assert plain != spread


def test_no_queries_choose_nothing(candidates):
    assert NearestExamples(candidates, 3)([]).sets == ()


def test_a_search_needs_a_workbench(candidates):
    with pytest.raises(ConfigError, match="development queries"):
        choose("search", candidates)
