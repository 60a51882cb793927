"""Strategies inside the evaluation stage: per task and per query, saved with the scores, never leaking."""

import json

import numpy as np
import pytest

from icl_embed.config import EvaluateConfig, SelectionConfig
from icl_embed.errors import EvaluationError
from icl_embed.evaluation.asking import strategy_of
from icl_embed.evaluation.score import count_query_tokens
from icl_embed.evaluation.scores import read_examples, read_scores
from icl_embed.evaluation.stage import evaluate_encoder
from icl_embed.evaluation.tasks.rows import read_task_data
from icl_embed.evaluation.tasks.task import EvaluatedModel
from icl_embed.examples import Example, Selection
from icl_embed.model.cached_encoding import CachingEncoder, Setting
from tests.icl_embed.evaluation.folders import row, sentence, write_dataset, write_pool
from tests.icl_embed.few_shot.tasks import passage

PAIRS = [(f"{sentence(n, 3)} asked", passage(n)) for n in range(30)]


@pytest.fixture
def dataset(tmp_path):
    rows = [row("test", n, sentence(n + 900, 3), positives=[passage(n + 900)]) for n in range(20)]
    corpus = [(f"p{n:03d}", "test", passage(n + 900)) for n in range(20)]
    return write_dataset(tmp_path / "data", "retrieval", rows, corpus)


def evaluate(tmp_path, dataset, encoder, strategy, pool=None, **options):
    config = EvaluateConfig(
        shots=3,
        bootstrap_resamples=50,
        examples_strategy=strategy,
        selection=SelectionConfig(**options),
    )
    counts = evaluate_encoder(
        dataset,
        encoder,
        config,
        tmp_path / "out",
        model=EvaluatedModel("toy", "abc", tmp_path),
        pool_dir=pool or write_pool(tmp_path / "pool", dataset, PAIRS),
        seed=1,
        strategy=strategy_of(config, seed=1),
    )
    return counts, json.loads((tmp_path / "out" / "examples.json").read_text())


@pytest.mark.parametrize("strategy", ["fixed", "random", "diverse", "balanced"])
def test_one_set_per_task_is_saved_as_before(tmp_path, dataset, encoder, strategy):
    counts, saved = evaluate(tmp_path, dataset, encoder, strategy)
    assert set(counts["scores"]) == {"zero-shot", "few-shot"}
    assert set(saved["few-shot"]) == {"instruction", "examples"}
    assert len(read_examples(tmp_path / "out")) == 3


@pytest.mark.parametrize(
    ("options", "most"), [({"max_sets": 4}, 4), ({"max_sets": 0}, 20), ({"nearest_by": "bm25"}, 20)]
)
def test_each_query_is_asked_with_its_own_examples(tmp_path, dataset, encoder, options, most):
    counts, saved = evaluate(tmp_path, dataset, encoder, "nearest", **options)
    few = saved["few-shot"]
    assert 1 < len(few["sets"]) <= most
    assert len(few["set_of_query"]) == counts["queries"] == 20
    assert {len(examples) for examples in few["sets"]} == {3}
    result = read_scores(tmp_path / "out").of("few-shot")
    assert result.shots == 3
    assert result.encoded_queries == 20
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
    _, saved = evaluate(tmp_path, dataset, encoder, "search", pool=pool, budget=2, dev_queries=12)
    assert len(saved["few-shot"]["examples"]) == 3
    first_test = next(n for n, (_, _, text) in enumerate(encoder.seen) if text in {r["query"] for r in rows})
    assert any(role == "shown" for role, _, _ in encoder.seen[:first_test])  # the search came first
    shown = {text for role, _, text in encoder.seen if role == "shown"}
    assert not shown & {text for r in rows for text in (r["query"], *r["positives"])}


def test_a_task_without_enough_rows_says_so_instead_of_failing(tmp_path, dataset, encoder):
    counts, _ = evaluate(tmp_path, dataset, encoder, "search")
    assert "there is no pool" in counts["absent"]["few-shot"]


def evaluate_nearest(tmp_path, dataset, encoder, strategy=None):
    """Evaluate with the strategy nearest, brought by the caller or not."""
    evaluate_encoder(
        dataset,
        encoder,
        EvaluateConfig(examples_strategy="nearest"),
        tmp_path / "out",
        model=EvaluatedModel("toy", "abc", tmp_path),
        pool_dir=write_pool(tmp_path / "pool", dataset, PAIRS),
        seed=1,
        strategy=strategy,
    )


def test_a_leaking_strategy_stops_the_evaluation(tmp_path, dataset, encoder):
    class Leaky:
        name = "leaky"

        def __call__(self, queries):
            return Selection.of([(Example(query, "it is this"),) for query in queries])

    with pytest.raises(EvaluationError, match="shows a text of the test split"):
        evaluate_nearest(
            tmp_path,
            dataset,
            encoder,
            strategy=lambda task: Setting("few-shot", task.instruction, choose=Leaky()),
        )


def test_a_strategy_that_nobody_brought_is_an_error(tmp_path, dataset, encoder):
    with pytest.raises(EvaluationError, match="examples_strategy is nearest"):
        evaluate_nearest(tmp_path, dataset, encoder)


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
