import json
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icl_embed.config import PoolConfig
from icl_embed.errors import PoolError
from icl_embed.examples import Example
from icl_embed.pool.examples import choose_examples
from tests.icl_embed.pool.datasets import (
    build,
    labelled_rows,
    passage,
    read,
    retrieval_row,
    row,
    sentence,
    write_dataset,
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    home = tmp_path_factory.mktemp("examples")
    skewed = [row(n, label="common" if n % 10 else f"rare {n % 4}") for n in range(60)]
    return build(
        home,
        write_dataset(home / "intents", skewed, kind="classification"),
        write_dataset(home / "facts", [retrieval_row(n + 100) for n in range(40)]),
        write_dataset(home / "unseen", [retrieval_row(n + 200) for n in range(8)], trained=False),
        write_dataset(home / "no-train", [retrieval_row(1, "test", query="held out")], trained=False),
    )


def test_labels_take_turns(pool):
    rows = [item for item in read(pool, "examples") if item["dataset"] == "intents"]
    labels = [item["response"] for item in rows]
    assert [item["rank"] for item in rows] == list(range(60))
    num_labels = len(set(labels))
    assert len(set(labels[:num_labels])) == num_labels
    chosen = choose_examples(pool, "intents", num_labels, seed=3)
    assert Counter(example.response for example in chosen) == dict.fromkeys(set(labels), 1)


def test_data_sets_that_are_only_evaluated_have_examples_too(pool):
    assert len(choose_examples(pool, "unseen", 5, seed=0)) == 5


def test_a_seed_is_a_draw_and_the_same_seed_the_same_draw(pool):
    first = choose_examples(pool, "facts", 5, seed=0)
    assert first == choose_examples(pool, "facts", 5, seed=0)
    assert first != choose_examples(pool, "facts", 5, seed=1)
    assert first == choose_examples(pool, "facts", 9, seed=0)[:5], "more shots keep the first ones"


def test_excluded_texts_are_found_in_query_and_response_whatever_their_case(pool):
    everything = choose_examples(pool, "facts", 100, seed=0)
    excluded = [everything[0].query.upper(), f" {everything[1].response} "]
    left = choose_examples(pool, "facts", 100, seed=0, exclude_texts=excluded)
    assert left == everything[2:]


def test_fewer_than_asked_are_returned_with_a_warning(pool, caplog):
    assert len(choose_examples(pool, "unseen", 50, seed=0)) == 8
    assert "8 eligible examples, 50 were asked for" in caplog.text


def test_an_unknown_data_set_gets_a_suggestion(pool):
    with pytest.raises(PoolError, match="did you mean intents"):
        choose_examples(pool, "intnts", 3, seed=0)


def test_no_eligible_example_is_an_error(pool, tmp_path):
    with pytest.raises(PoolError, match="no eligible example for the data set 'no-train'"):
        choose_examples(pool, "no-train", 3, seed=0)
    everything = [example.query for example in choose_examples(pool, "unseen", 8, seed=0)]
    with pytest.raises(PoolError, match="no eligible example among 8"):
        choose_examples(pool, "unseen", 3, seed=0, exclude_texts=everything)
    with pytest.raises(PoolError, match="there is no pool"):
        choose_examples(tmp_path, "unseen", 3, seed=0)


def test_nothing_evaluated_is_ever_shown_not_even_nearly(tmp_path):
    question = sentence(1, 14) + " tail"
    evaluated = [retrieval_row(1, "test", query=question), retrieval_row(2, "dev")]
    train = [
        retrieval_row(10, query=question.title()),
        retrieval_row(11, query=question + "!"),
        retrieval_row(12, positives=[passage(2)]),
        retrieval_row(13, positives=[passage(2).replace("lies by", "lies bye")]),
        retrieval_row(14, query=sentence(1, 16) + " and more"),
        retrieval_row(15),
    ]
    source = write_dataset(tmp_path / "data", [*evaluated, *train])
    folder = build(
        tmp_path, source, config=PoolConfig(max_dropped_fraction=1.0, near_duplicate_threshold=0.7)
    )
    assert choose_examples(folder, "data", 10, seed=0) == [Example(sentence(15), passage(15))]
    counts = json.loads((folder / "statistics.json").read_text())["datasets"]["data"]["examples"]
    assert counts == {"kept": 1, "evaluated_near_duplicate": 1}


def test_what_would_fill_the_prompt_is_no_example(tmp_path):
    rows = [
        retrieval_row(1, query="word " * 201),
        retrieval_row(2, positives=["other " * 201]),
        retrieval_row(3),
    ]
    folder = build(tmp_path, write_dataset(tmp_path / "data", rows))
    assert [item["query"] for item in read(folder, "examples")] == [sentence(3)]
    counts = json.loads((folder / "statistics.json").read_text())["datasets"]["data"]["examples"]
    assert counts == {"kept": 1, "too_long": 2}


def test_a_query_is_shown_once_and_there_is_a_limit(tmp_path):
    rows = [retrieval_row(n, positives=[passage(n), passage(n + 100)]) for n in range(20)]
    source = write_dataset(tmp_path / "data", rows)
    folder = build(tmp_path, source, config=PoolConfig(max_examples_per_task=7))
    shown = read(folder, "examples")
    assert len({item["query"] for item in shown}) == len(shown) == 7
    assert [item["rank"] for item in shown] == list(range(7))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["train", "dev", "test"]), min_size=6, max_size=20), st.integers(0, 5))
def test_examples_never_come_from_evaluated_splits(tmp_path_factory, splits, seed):
    home = tmp_path_factory.mktemp("splits")
    rows = [
        row(n % 7, split, row_id=f"r{n}", label="xyz"[n % 3]) for n, split in enumerate(["train", *splits])
    ]
    always = write_dataset(home / "always", labelled_rows(4, ["x", "y"]), kind="classification")
    source = write_dataset(home / "data", rows, kind="classification", trained=False)
    folder = build(home, always, source) if rows_left(rows) else None
    if folder:
        evaluated = {item["query"] for item in rows if item["split"] != "train"}
        assert not evaluated & {item["query"] for item in read(folder, "examples")}


def rows_left(rows):
    """The helper data set shares the first four sentences: leave it something to train on."""
    evaluated = {item["query"] for item in rows if item["split"] != "train"}
    return any(sentence(n) not in evaluated for n in range(4))
