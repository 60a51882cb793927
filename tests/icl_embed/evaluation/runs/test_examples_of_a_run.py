"""Which examples a task is asked with, and which it never is."""

import json

import pytest

from icl_embed.config import SelectionConfig
from icl_embed.errors import ConfigError, DataError, EvaluationError, PoolError
from icl_embed.evaluation.asking import checked_setting, plan_setting
from icl_embed.evaluation.tasks.local import find_dataset, open_dataset
from icl_embed.examples import Example
from icl_embed.few_shot.settings import AskedSetting
from icl_embed.few_shot.sources import ExampleSource, offer_examples
from icl_embed.model.cached_encoding import CachingEncoder
from tests.icl_embed.evaluation.folders import write_pool
from tests.icl_embed.evaluation.runs.local_store import KINDS, LABELS, add_dataset, rows_of


@pytest.fixture
def open_task(store, config):
    def open_one(kind="retrieval", **more):
        return open_dataset(find_dataset(add_dataset(store, f"toy-{kind}", kind, **more), store), config)

    return open_one


def plan(asked, task, offered, config, **more):
    settings = {"instruction": "find", "source": ExampleSource()} | more
    return plan_setting(asked, task, offered, config=config, **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_split_gives_candidates_of_every_kind(open_task, kind):
    offered = offer_examples(open_task(kind), ExampleSource())
    assert offered.rows
    assert offered.reason == ""
    responses = {row.example.response for row in offered.rows}
    assert (responses == set(LABELS)) == (kind in ("classification", "clustering"))


def test_an_example_that_shows_an_evaluated_text_is_left_out_and_counted(open_task):
    rows = rows_of("retrieval", 0, 6)
    test_query, answer = rows[6]["query"], rows[7]["positives"][0]
    rows[0]["query"] = f"  {test_query.upper()} "
    rows[1]["positives"] = [answer.replace(" ", "\u00a0")]
    rows[2]["positives"] = [rows[2]["query"]]
    rows[4]["query"], rows[4]["positives"] = rows[3]["query"], rows[3]["positives"]
    offered = offer_examples(open_task(rows=rows), ExampleSource())
    assert offered.found == 6
    assert dict(offered.dropped) == {
        "shows an evaluated text": 2,
        "twice, or the query again as its response": 2,
    }
    assert [row.example.query for row in offered.rows] == [rows[3]["query"], rows[5]["query"]]


def test_a_label_may_occur_among_the_evaluated_texts(open_task):
    rows = rows_of("classification", 0, 6)
    rows[6]["query"] = LABELS[0]
    assert len(offer_examples(open_task("classification", rows=rows), ExampleSource()).rows) == 6


def test_a_large_training_split_is_cut_by_a_draw_in_which_labels_take_turns(open_task):
    task = open_task("classification", size=30)
    offered = offer_examples(task, ExampleSource(max_candidates=6))
    assert sorted(row.label for row in offered.rows) == sorted(LABELS * 2)
    assert offered == offer_examples(task, ExampleSource(max_candidates=6))


def test_a_file_is_shown_in_its_order_and_its_labels_become_those_of_training(open_task, tmp_path, config):
    items = [{"query": f"line {n}", "response": "About_The_Sky" if n else "unheard of"} for n in range(4)]
    (tmp_path / "toy-classification.json").write_text(json.dumps(items))
    task = open_task("classification")
    offered = offer_examples(task, ExampleSource(files=tmp_path))
    chosen = plan(AskedSetting(2, "fixed", 7), task, offered, config).make(None)
    assert chosen.examples == (Example("line 0", "unheard of"), Example("line 1", "about the sky"))


def test_the_papers_first_files_whose_responses_repeat_the_queries_offer_nothing(open_task, tmp_path):
    (tmp_path / "toy-sts.json").write_text(json.dumps([{"query": "a b", "response": "A  b"}] * 3))
    offered = offer_examples(open_task("sts"), ExampleSource(files=tmp_path))
    assert offered.rows == ()
    assert "none of the 3 examples" in offered.reason
    assert "the query again as its response" in offered.reason


def test_a_task_without_a_file_a_pool_entry_or_a_training_split_says_why_it_has_none(open_task, tmp_path):
    task = open_task(rows=rows_of("retrieval", 0, 6)[6:])
    assert "no training split" in offer_examples(task, ExampleSource()).reason
    assert "has no file for data/toy-retrieval" in offer_examples(task, ExampleSource(files=tmp_path)).reason
    pool = write_pool(tmp_path / "pool", task.dataset, [("a", "b")])
    other = ExampleSource(pool_dir=pool, pool_names={task.facts.name: "unheard"})
    assert "no eligible example for the data set 'unheard'" in offer_examples(task, other).reason
    assert [row.example for row in offer_examples(task, ExampleSource(pool_dir=pool)).rows] == [
        Example("a", "b")
    ]
    with pytest.raises(DataError, match="there is no file or folder"):
        offer_examples(task, ExampleSource(files=tmp_path / "nowhere"))


@pytest.mark.parametrize("strategy", ["random", "fixed", "nearest", "diverse", "balanced", "search"])
@pytest.mark.parametrize("kind", ["retrieval", "classification"])
def test_every_strategy_chooses_from_the_candidates_and_the_same_again(
    open_task, encoder, config, strategy, kind
):
    task = open_task(kind, size=140)
    options = SelectionConfig(budget=2, dev_queries=12)
    config = config.model_copy(update={"selection": options})
    offered = offer_examples(task, ExampleSource())
    known = {row.example for row in offered.rows}
    found = []
    for seed in (1, 1, 2):
        one = plan(AskedSetting(3, strategy, seed), task, offered, config)
        setting = checked_setting(one, task, CachingEncoder(encoder))
        sets = setting.selection(task.query_texts()).sets
        assert {example for examples in sets for example in examples} <= known
        assert all(1 <= len(examples) <= 3 for examples in sets)
        assert setting.name == one.asked.name
        found.append((sets, one.known))
    assert found[0] == found[1]
    if strategy in ("random", "fixed"):
        assert found[0][1] != found[2][1]


def test_fixed_and_random_say_their_exact_texts_before_any_model_is_loaded(open_task, config):
    task = open_task()
    offered = offer_examples(task, ExampleSource())
    for strategy in ("fixed", "random"):
        one = plan(AskedSetting(2, strategy), task, offered, config)
        assert len(one.known) == 2
        assert one.make(None).examples == one.known


def test_search_among_examples_needs_more_than_pairs_without_scores(open_task, encoder, config):
    task = open_task("sts", size=60)
    one = plan(AskedSetting(2, "search"), task, offer_examples(task, ExampleSource()), config)
    with pytest.raises(PoolError, match="search needs pairs with scores"):
        checked_setting(one, task, CachingEncoder(encoder))


def test_changed_examples_are_what_the_key_names_and_may_not_leak(open_task, encoder, config):
    task = open_task()
    offered = offer_examples(task, ExampleSource())
    asked = AskedSetting(2, "random", 0, "shouted")
    with pytest.raises(ConfigError, match="'shouted' need"):
        plan(asked, task, offered, config)

    def shout(examples, offered, asked):
        return tuple(Example(one.query.upper(), one.response) for one in examples)

    changed = plan(asked, task, offered, config, change=shout)
    clean = plan(AskedSetting(2), task, offered, config, change=shout)
    assert changed.known != clean.known
    assert checked_setting(changed, task, CachingEncoder(encoder)).examples[0].query.isupper()

    def leak(examples, offered, asked):
        return (Example(task.query_texts()[0], "answer"),)

    with pytest.raises(EvaluationError, match="shows a text of the test split"):
        checked_setting(plan(asked, task, offered, config, change=leak), task, CachingEncoder(encoder))
