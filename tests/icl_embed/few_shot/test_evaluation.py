"""Strategies inside the evaluation stage: per task and per query, saved with the scores, never leaking."""

import json

import numpy as np
import pytest

from icl_embed.config import EvaluateConfig, SelectionConfig
from icl_embed.errors import EvaluationError
from icl_embed.evaluation.asking import Plan, checked_setting
from icl_embed.evaluation.score import count_query_tokens
from icl_embed.evaluation.scores import read_examples, read_scores
from icl_embed.evaluation.tasks.local import LocalBenchmarkTask
from icl_embed.evaluation.tasks.rows import read_task_data
from icl_embed.examples import Example, Selection
from icl_embed.few_shot.settings import AskedSetting
from icl_embed.model.cached_encoding import CachingEncoder, Setting
from icl_embed.pool.examples import choose_examples
from tests.icl_embed.evaluation.folders import row, score_folder, sentence, write_dataset, write_pool
from tests.icl_embed.evaluation.runs.conftest import opened
from tests.icl_embed.few_shot.tasks import passage

PAIRS = [(f"{sentence(n, 3)} asked", passage(n)) for n in range(30)]


@pytest.fixture
def dataset(tmp_path):
    rows = [row("test", n, sentence(n + 900, 3), positives=[passage(n + 900)]) for n in range(20)]
    corpus = [(f"p{n:03d}", "test", passage(n + 900)) for n in range(20)]
    return write_dataset(tmp_path / "data", "retrieval", rows, corpus)


def evaluate(tmp_path, dataset, encoder, strategy, pool=None, **options):
    """The few-shot score's folder; returns its counts, and the examples that were shown."""
    config = EvaluateConfig(bootstrap_resamples=50, selection=SelectionConfig(**options))
    asked = AskedSetting(3, strategy)
    counts = score_folder(
        dataset,
        opened(encoder, tmp_path),
        asked,
        tmp_path / "out",
        config=config,
        pool=pool or write_pool(tmp_path / "pool", dataset, PAIRS),
    )
    shown = tmp_path / "out" / "examples.json"
    return counts, json.loads(shown.read_text())[asked.name] if shown.exists() else {}


@pytest.mark.parametrize("strategy", ["fixed", "random", "diverse", "balanced"])
def test_one_set_per_task_is_saved_with_its_origin(tmp_path, dataset, encoder, strategy):
    counts, shown = evaluate(tmp_path, dataset, encoder, strategy)
    (name,) = counts["scores"]
    assert "sets" not in shown
    assert (shown["instruction"], shown["candidates"]) == (dataset.instruction, 30)
    assert f"{dataset.name} of pool pool" in shown["source"]
    assert len(read_examples(tmp_path / "out", name)) == 3


def test_fixed_examples_are_those_that_the_pool_shows(tmp_path, dataset, encoder):
    pool = write_pool(tmp_path / "pool", dataset, PAIRS)
    evaluate(tmp_path, dataset, encoder, "fixed", pool)
    shown = read_examples(tmp_path / "out", "3-shot fixed")
    assert shown == tuple(choose_examples(pool, dataset.name, 3, 0))


@pytest.mark.parametrize(
    ("options", "most"), [({"max_sets": 4}, 4), ({"max_sets": 0}, 20), ({"nearest_by": "bm25"}, 20)]
)
def test_each_query_is_asked_with_its_own_examples(tmp_path, dataset, encoder, options, most):
    counts, few = evaluate(tmp_path, dataset, encoder, "nearest", **options)
    assert 1 < len(few["sets"]) <= most
    assert len(few["set_of_query"]) == 20
    assert {len(examples) for examples in few["sets"]} == {3}
    result = read_scores(tmp_path / "out").of("3-shot nearest")
    assert result.shots == 3
    assert result.encoded_queries == counts["encoded_queries"] >= 20  # choosing needs vectors too
    # the score is the one of vectors encoded one by one, each under its own set
    data = read_task_data(dataset)
    passages = encoder.encode_passages(list(data.passages.values()))
    values = []
    for (name, text), number in zip(data.queries.items(), few["set_of_query"], strict=True):
        examples = [Example(**one) for one in few["sets"][number]]
        vector = encoder.encode_queries([text], instruction=dataset.instruction, examples=examples)[0]
        ranked = [list(data.passages)[n] for n in np.argsort(-(passages @ vector), kind="stable")][:10]
        rank = ranked.index(data.relevant[name][0]) if data.relevant[name][0] in ranked else None
        values.append(0.0 if rank is None else 1 / np.log2(rank + 2))
    assert result.mean == pytest.approx(np.mean(values), abs=1e-5)


def test_search_runs_inside_an_evaluation_and_never_sees_its_texts(tmp_path, pool, encoder):
    rows = [row("test", n, sentence(n + 900, 3), positives=[passage(n + 900)]) for n in range(20)]
    corpus = [(f"p{n:03d}", "test", passage(n + 900)) for n in range(20)]
    dataset = write_dataset(tmp_path / "data", "retrieval", rows, corpus, name="answers")
    _, shown = evaluate(tmp_path, dataset, encoder, "search", pool=pool, budget=2, dev_queries=12)
    assert len(shown["examples"]) == 3
    first_test = next(n for n, (_, _, text) in enumerate(encoder.seen) if text in {r["query"] for r in rows})
    assert any(role == "shown" for role, _, _ in encoder.seen[:first_test])  # the search came first
    shown = {text for role, _, text in encoder.seen if role == "shown"}
    assert not shown & {text for r in rows for text in (r["query"], *r["positives"])}


def test_a_task_without_enough_rows_says_so_instead_of_failing(tmp_path, dataset, encoder):
    counts, _ = evaluate(tmp_path, dataset, encoder, "search")
    assert "there is no pool" in counts["absent"]["3-shot search"]


def test_a_leaking_strategy_stops_the_evaluation(tmp_path, dataset, encoder):
    class Leaky:
        name = "leaky"

        def __call__(self, queries):
            return Selection.of([(Example(query, "it is this"),) for query in queries])

    task = LocalBenchmarkTask(dataset, EvaluateConfig())
    plan = Plan(AskedSetting(1, "nearest"), lambda _: Setting("1-shot", "find", choose=Leaky()))
    with pytest.raises(EvaluationError, match="shows a text of the test split"):
        checked_setting(plan, task, CachingEncoder(encoder))


def test_queries_with_one_set_are_encoded_together(encoder):
    calls = []

    class Counting(type(encoder)):
        def encode_queries(self, texts, **more):
            calls.append((len(texts), more["examples"]))
            return super().encode_queries(texts, **more)

    def choose(queries):
        return Selection.of([(Example(query[0], "r"),) for query in queries])

    choose.name = "by first letter"
    setting = Setting("few-shot", "find", choose=choose)
    vectors = CachingEncoder(Counting(encoder.prompts)).queries(["ab", "ba", "ac", "bb", "ab"], setting)
    assert sorted(calls, key=str) == [(2, (Example("a", "r"),)), (2, (Example("b", "r"),))]
    expected = encoder.encode_queries(["ba"], instruction="find", examples=[Example("b", "r")])
    np.testing.assert_allclose(vectors[1], expected[0])
    np.testing.assert_array_equal(vectors[0], vectors[4])


def test_tokens_are_counted_under_each_querys_own_examples(prompts):
    short, long = (Example("a", "b"),), (Example("a b c d", "e f g h"), Example("a", "b"))

    def choose(queries):
        return Selection.of([long if "long" in query else short for query in queries])

    choose.name = "by length"
    counted = count_query_tokens(prompts, ["one", "long", "two"], Setting("few-shot", "find", choose=choose))
    prefixes = [len(prompts.prefix("find", examples).tokens) for examples in (short, long)]
    tails = sum(map(len, prompts.query_tails("find", ["one", "long", "two"])))
    assert counted.prefix == pytest.approx((2 * prefixes[0] + prefixes[1]) / 3, abs=0.01)
    assert counted.mean == pytest.approx((2 * prefixes[0] + prefixes[1] + tails) / 3, abs=0.01)
    assert counted.examples_shown == 2
