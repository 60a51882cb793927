import itertools
from collections import Counter

import pytest

from icl_embed.config import ExamplesConfig, OptimizerConfig
from icl_embed.train.batches import choose_negatives, draw_examples, draw_same_label, make_batch, plan_steps
from icl_embed.train.rows import Row, TrainingSet
from icl_embed.train.schedule import learning_rate


def training_set(name: str, kind: str, size: int, weight: float = 0.5) -> TrainingSet:
    def row(number: int) -> Row:
        label = f"label {number % 3}" if kind == "classification" else ""
        return Row(
            f"{name} query {number}", f"{name} passage {number}", f"response {number}", label, ("n1", "n2")
        )

    return TrainingSet(name, kind, f"instruction {name}", weight, [row(number) for number in range(size)])


SETS = [training_set("a", "retrieval", 20, 0.75), training_set("b", "classification", 9, 0.25)]


def test_the_plan_is_a_function_of_the_seed_and_a_longer_plan_begins_alike() -> None:
    plan = plan_steps(SETS, steps=50, batch_size=4, seed=1)
    assert plan == plan_steps(SETS, steps=50, batch_size=4, seed=1)
    assert plan[:20] == plan_steps(SETS, steps=20, batch_size=4, seed=1)
    assert plan != plan_steps(SETS, steps=50, batch_size=4, seed=2)


def test_every_epoch_shows_each_row_at_most_once_in_a_new_order() -> None:
    [only] = SETS[:1]
    plan = plan_steps([only], steps=10, batch_size=4, seed=1)
    epochs = [[row for _, rows in plan[first : first + 5] for row in rows] for first in (0, 5)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(20))
    assert epochs[0] != epochs[1]


def test_data_sets_are_drawn_by_weight() -> None:
    counts = Counter(chosen for chosen, _ in plan_steps(SETS, steps=4000, batch_size=4, seed=3))
    assert 0.72 < counts[0] / 4000 < 0.78


def test_examples_come_from_other_rows_and_their_number_is_uniform() -> None:
    rows = SETS[0].rows
    config = ExamplesConfig(max_per_query=5)
    counts: Counter[int] = Counter()
    for step in range(3000):
        examples = draw_examples(rows, range(7, 8), config, seed=1, step=step)
        counts[len(examples)] += 1
        assert len({example.query for example in examples}) == len(examples)
        for example in examples:
            assert example.query != rows[7].query
            assert example.response != rows[7].response
    assert set(counts) == {0, 1, 2, 3, 4, 5}
    assert all(abs(count / 3000 - 1 / 6) < 0.03 for count in counts.values())


def test_a_group_never_sees_its_own_rows() -> None:
    for step in range(200):
        shown = draw_examples(SETS[0].rows, range(4, 12), ExamplesConfig(), seed=1, step=step)
        own = {SETS[0].rows[number].query for number in range(4, 12)}
        assert not own & {example.query for example in shown}


def test_a_duplicate_of_the_query_or_its_answer_is_never_its_example() -> None:
    twin = Row("same", "x", "x", "", ())
    answer = Row("other", "the answer", "the answer", "", ())
    rows = [Row("same", "the answer", "the answer", "", ()), twin, answer]
    for step in range(50):
        assert draw_examples(rows, range(1), ExamplesConfig(), seed=1, step=step) == []


def test_label_tasks_alternate_between_label_and_text_targets() -> None:
    planned = (1, (0, 1, 2, 3))
    kinds = [make_batch(SETS, planned, step=step, label_target="mixed").targets_labels for step in range(4)]
    assert kinds == [True, False, True, False]
    assert not make_batch(SETS, (0, (0,)), step=0, label_target="label").targets_labels


def test_another_text_of_the_same_label_is_drawn() -> None:
    row = SETS[1].rows[0]
    for step in range(20):
        text = draw_same_label(SETS[1], row, seed=1, step=step)
        [found] = [other for other in SETS[1].rows if other.query == text]
        assert found.label == row.label
        assert found is not row
    lonely = Row("alone", "x", "x", "only one", ())
    assert draw_same_label(SETS[1], lonely, seed=1, step=0) == "alone"


def test_negatives_are_cycled_only_when_there_are_too_few() -> None:
    row = Row("q", "p", "p", "", ("n1", "n2", "n3"))
    assert sorted(choose_negatives(row, 3, seed=1, step=0)) == ["n1", "n2", "n3"]
    assert Counter(choose_negatives(row, 6, seed=1, step=0)) == {"n1": 2, "n2": 2, "n3": 2}
    assert choose_negatives(Row("q", "p", "p", "", ()), 3, seed=1, step=0) == []


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_learning_rate_warms_up_and_ends_where_the_schedule_says(schedule: str) -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=4, steps=104, schedule=schedule)
    rates = [learning_rate(config, step) for step in range(104)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    half = rates[4 + 50]
    if schedule == "constant":
        assert set(rates[3:]) == {1.0}
    else:
        assert abs(half - 0.5) < 1e-9
        assert rates[-1] < 0.02
        assert all(later <= earlier for earlier, later in itertools.pairwise(rates[3:]))
