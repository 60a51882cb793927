"""Examples of a task: from the pool, never from the test split."""

import pytest

from icl_embed.config import EvaluateConfig
from icl_embed.errors import EvaluationError
from icl_embed.evaluation.leaks import evaluated_texts, examples_for, refuse_leaks
from icl_embed.evaluation.tasks.rows import read_task_data
from icl_embed.examples import Example
from tests.icl_embed.evaluation.folders import make_dataset, sentence, write_pool

CONFIG = EvaluateConfig(shots=2)
PAIRS = [("first question", "first answer"), ("second question", "second answer"), ("third", "fourth")]


def test_the_pool_gives_as_many_examples_as_shots(tmp_path):
    dataset = make_dataset(tmp_path / "data", "retrieval")
    pool = write_pool(tmp_path / "pool", dataset, PAIRS)
    chosen, reason = examples_for(dataset, read_task_data(dataset), pool, CONFIG)
    assert len(chosen) == 2
    assert {(example.query, example.response) for example in chosen} <= set(PAIRS)
    assert reason == ""


def test_a_task_without_examples_says_why(tmp_path):
    dataset = make_dataset(tmp_path / "data", "retrieval")
    data = read_task_data(dataset)
    assert examples_for(dataset, data, None, CONFIG) == ((), "no example pool was given")
    other = make_dataset(tmp_path / "other", "sts")
    chosen, reason = examples_for(dataset, data, write_pool(tmp_path / "pool", other, PAIRS), CONFIG)
    assert chosen == ()
    assert "toy-retrieval" in reason


@pytest.mark.parametrize(
    "example",
    [
        Example(sentence(5003, 3), "an answer"),
        Example("a question", sentence(5003)),
        Example(sentence(5003, 3).upper().replace(" ", "  "), "an answer"),
    ],
    ids=["a test query", "the passage that answers one", "a test query up to case and spacing"],
)
def test_an_example_of_the_test_split_stops_the_evaluation(tmp_path, example):
    dataset = make_dataset(tmp_path, "retrieval")
    forbidden = evaluated_texts(read_task_data(dataset))
    with pytest.raises(EvaluationError, match="example 1 shows a text of the test split"):
        refuse_leaks(dataset, [Example("fine", "fine"), example], forbidden)


def test_a_label_that_is_also_a_test_text_is_no_leak(tmp_path):
    dataset = make_dataset(tmp_path, "classification")
    forbidden = evaluated_texts(read_task_data(dataset))
    refuse_leaks(dataset, [Example("a train text", sorted(forbidden)[0])], forbidden)
    with pytest.raises(EvaluationError, match="test split"):
        refuse_leaks(dataset, [Example(sorted(forbidden)[0], "a label")], forbidden)
