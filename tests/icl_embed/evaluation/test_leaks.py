"""No example shows what is evaluated."""

import pytest

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.leaks import evaluated_texts, refuse_leaks
from icl_embed.evaluation.tasks.rows import read_task_data
from icl_embed.examples import Example
from tests.icl_embed.evaluation.folders import make_dataset, sentence


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
