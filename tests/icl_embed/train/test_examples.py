"""What makes examples worth reading in training: how many, arbitrary names, other instructions, likeness."""

from collections import Counter

import pytest
from pydantic import ValidationError

from icl_embed.config import ExamplesConfig, TrainConfig
from icl_embed.train.embedder.batches import NAMES, Batch, Rule, draw_candidates, make_batch
from icl_embed.train.embedder.examples import (
    GENERIC_INSTRUCTION,
    Neighbours,
    draw_examples,
    draw_for_passages,
    draw_instruction,
)
from icl_embed.train.rows import Row, TrainingSet
from tests.made_rows import made_set

LABELS = ("joy", "anger", "fear", "love", "shame", "pride", "calm")


def moods(size: int = 70) -> TrainingSet:
    def row(number: int) -> Row:
        label = LABELS[number % len(LABELS)]
        others = tuple(other for other in LABELS if other != label)
        return Row(f"text {number}", label, label, label, others)

    return made_set("moods", "classification", "Name the mood", 1.0, [row(n) for n in range(size)])


def facts() -> TrainingSet:
    words = ("river", "stone", "cloud", "tiger", "piano")
    rows = [
        Row(f"{words[n % 5]} question about number{n}", f"answer {n}", f"answer {n}", "", ())
        for n in range(50)
    ]
    return made_set("facts", "retrieval", "Find the answer", 1.0, rows)


def renamed(step: int, **examples) -> Batch:
    config = TrainConfig(examples=ExamplesConfig(arbitrary_names=1.0, **examples))
    return make_batch([moods()], (0, tuple(range(8))), step=step, config=config, seed=1)


def hidden_of(batch: Batch) -> set[str]:
    return {text for row in batch.rows for text in (row.query, row.positive)}


@pytest.mark.parametrize("step", range(12))
def test_labels_under_arbitrary_names_are_all_explained_by_the_examples(step: int) -> None:
    batch = renamed(step)
    assert 2 <= len(batch.names) <= 5
    assert set(batch.names) <= set(LABELS) and set(batch.names.values()) <= set(NAMES)
    assert len(batch.rows) == 8 and {row.label for row in batch.rows} <= set(batch.names)
    shown = draw_examples(batch, range(8), ExamplesConfig(), hidden=hidden_of(batch), seed=1)
    by_text = {row.query: row.label for row in moods().rows}
    for example in shown:
        assert example.response == batch.names[by_text[example.query]]  # the same name as in the target
        assert example.query not in {row.query for row in batch.rows}
    assert {example.response for example in shown} == set(batch.names.values())
    for row in batch.rows:
        assert row.positive == row.response == batch.names[row.label]
        if batch.targets_labels:
            rule = Rule(num_negatives=3, in_batch_negatives=False, distil=False)
            texts = [one.text for one in draw_candidates(batch, row, rule, text_shuffle=0.0, seed=1)]
            assert texts[0] == row.positive and set(texts[1:]) <= set(batch.names.values()) - {row.positive}


def test_names_are_drawn_anew_in_every_step_and_the_same_again_after_a_resume() -> None:
    drawn = [tuple(renamed(step).names.items()) for step in range(20)]
    assert len(set(drawn)) == 20
    assert drawn == [tuple(renamed(step).names.items()) for step in range(20)]


def test_one_label_keeps_its_name() -> None:
    single = made_set("one", "classification", "Name it", 1.0, [Row("a", "x", "x", "x", ())] * 3)
    config = TrainConfig(examples=ExamplesConfig(arbitrary_names=1.0))
    assert not make_batch([single], (0, (0, 1)), step=0, config=config, seed=1).names


def test_tasks_without_labels_have_no_names_to_change() -> None:
    config = TrainConfig(examples=ExamplesConfig(arbitrary_names=1.0))
    assert not make_batch([facts()], (0, (0, 1)), step=0, config=config, seed=1).names


def test_the_number_of_examples_follows_the_weights() -> None:
    batch = Batch(0, facts(), facts().rows[:16], False)
    config = ExamplesConfig(counts=(0.3, 0.0, 0.0, 0.7))
    assert config.wanted == 3
    steps = [Batch(step, batch.training_set, batch.rows, False) for step in range(400)]
    found = Counter(len(draw_examples(one, range(1), config, hidden=set(), seed=3)) for one in steps)
    assert set(found) == {0, 3}
    assert 0.2 < found[0] / 400 < 0.4


def test_an_instruction_that_says_nothing_stands_only_above_examples() -> None:
    config = ExamplesConfig(generic_instruction=0.5)
    batches = [Batch(step, facts(), facts().rows[:8], False) for step in range(300)]
    example = draw_examples(batches[0], range(1), ExamplesConfig(counts=(0, 1)), hidden=set(), seed=1)
    with_examples = Counter(draw_instruction(one, range(8), config, example, seed=1) for one in batches)
    assert set(with_examples) == {GENERIC_INSTRUCTION, "Find the answer"}
    assert 0.4 < with_examples[GENERIC_INSTRUCTION] / 300 < 0.6
    assert {draw_instruction(one, range(8), config, [], seed=1) for one in batches} == {"Find the answer"}


def test_the_nearest_examples_share_words_and_never_give_the_answer_away() -> None:
    training_set = facts()
    copy = Row("river question about number0", "another answer", "another answer", "", ())
    near = Row("river question about number0 again please", "copy of it", "copy of it", "", ())
    rows = [*training_set.rows, copy, near]
    known = made_set("facts", "retrieval", "Find the answer", 1.0, rows)
    batch = Batch(0, known, tuple(rows[:2]), False)  # of a river and of a stone
    config = ExamplesConfig(mode="nearest", counts=(0, 0, 0, 0, 1))
    shown = draw_examples(
        batch, range(2), config, hidden=hidden_of(batch), seed=1, neighbours=Neighbours(known, 1)
    )
    words = Counter(example.query.split()[0] for example in shown)
    assert words == {"river": 2, "stone": 2}  # readers take turns
    assert copy.query not in {one.query for one in shown}
    alone = draw_examples(
        batch, range(1), config, hidden=hidden_of(batch), seed=1, neighbours=Neighbours(known, 1)
    )
    assert {one.query.split()[0] for one in alone} == {"river"}
    assert (
        alone[-1].query == near.query
    )  # the nearest stands beside the query; six of seven words are no copy


def test_a_near_copy_of_a_query_is_no_example() -> None:
    rows = [
        Row("one two three four five six seven eight nine", "a", "a", "", ()),
        Row("one two three four five six seven eight nine ten", "b", "b", "", ()),
        Row("one two other words", "c", "c", "", ()),
        Row("nothing alike", "d", "d", "", ()),
    ]
    found = Neighbours(made_set("n", "retrieval", "i", 1.0, rows), 1).of(rows[:1], 3, {rows[0].query})
    assert [row.positive for row in found] == ["c"]


def test_passages_of_symmetric_tasks_see_examples_in_a_share_of_the_steps() -> None:
    config = ExamplesConfig(symmetric_passages=0.5, counts=(0, 0, 1))
    batches = [Batch(step, facts(), facts().rows[:4], False) for step in range(200)]
    hidden = hidden_of(batches[0])
    shown = [draw_for_passages(one, config, hidden=hidden, seed=1) for one in batches]
    assert 70 < sum(bool(one) for one in shown) < 130
    assert all(example.query not in hidden for one in shown for example in one)
    assert not draw_for_passages(batches[0], ExamplesConfig(), hidden=hidden, seed=1)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"counts": (0.0, 0.0)}, "all of"),
        ({"counts": (1.0, -1.0)}, "greater than or equal to 0"),
        ({"arbitrary_names": 0.5, "mode": "none"}, "two labels at least"),
        ({"arbitrary_names": 0.5, "max_per_query": 1}, "two labels at least"),
    ],
)
def test_what_cannot_be_drawn_is_refused(asked: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ExamplesConfig(**asked)
