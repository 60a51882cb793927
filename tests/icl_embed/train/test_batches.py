import itertools
from collections import Counter

import pytest

from icl_embed.config import ExamplesConfig, KindRule, OptimizerConfig, TrainConfig
from icl_embed.errors import TrainingError
from icl_embed.train.embedder.batches import (
    Batch,
    Rule,
    draw_candidates,
    draw_same_label,
    in_random_order,
    make_batch,
    refuse_unusable,
    rule_of,
)
from icl_embed.train.embedder.examples import draw_examples, fixed_rows, readers_of
from icl_embed.train.loop import learning_rate
from icl_embed.train.plan import plan_steps
from icl_embed.train.rows import Row, TrainingSet
from tests.made_rows import made_set


def training_set(name: str, kind: str, size: int, weight: float = 0.5) -> TrainingSet:
    def row(number: int) -> Row:
        label = f"label {number % 3}" if kind == "classification" else ""
        return Row(
            f"{name} query {number}", f"{name} passage {number}", f"response {number}", label, ("n1", "n2")
        )

    return made_set(name, kind, f"instruction {name}", weight, [row(number) for number in range(size)])


SETS = [training_set("a", "retrieval", 20, 0.75), training_set("b", "classification", 9, 0.25)]
RULE = Rule(num_negatives=3, in_batch_negatives=True, distil=False)


def batch_of(rows, *, step: int = 0, of: TrainingSet = SETS[0], targets_labels: bool = False) -> Batch:
    return Batch(step, of, tuple(rows), targets_labels)


def shown(batch: Batch, readers: range, config: ExamplesConfig):
    concerned = range(len(batch.rows)) if config.sharing == "per_batch" else readers
    hidden = {
        text for number in concerned for text in (batch.rows[number].query, batch.rows[number].positive)
    }
    return draw_examples(batch, readers, config, hidden=hidden, seed=1)


def test_the_plan_is_a_function_of_the_seed_and_a_longer_plan_begins_alike() -> None:
    plan = plan_steps(SETS, steps=50, batch_sizes=[4, 4], seed=1)
    assert list(plan) == list(plan_steps(SETS, steps=50, batch_sizes=[4, 4], seed=1))
    assert plan[:20] == list(plan_steps(SETS, steps=20, batch_sizes=[4, 4], seed=1))
    assert list(plan) != list(plan_steps(SETS, steps=50, batch_sizes=[4, 4], seed=2))


def test_every_data_set_has_batches_of_its_own_size() -> None:
    assert {
        (chosen, len(rows)) for chosen, rows in plan_steps(SETS, steps=50, batch_sizes=[4, 2], seed=1)
    } == {
        (0, 4),
        (1, 2),
    }


def test_every_epoch_shows_each_row_at_most_once_in_a_new_order() -> None:
    [only] = SETS[:1]
    plan = plan_steps([only], steps=10, batch_sizes=[4], seed=1)
    epochs = [[row for _, rows in plan[first : first + 5] for row in rows] for first in (0, 5)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(20))
    assert epochs[0] != epochs[1]


def test_data_sets_are_drawn_by_weight() -> None:
    counts = Counter(chosen for chosen, _ in plan_steps(SETS, steps=4000, batch_sizes=[4, 4], seed=3))
    assert 0.72 < counts[0] / 4000 < 0.78


def test_numbers_in_random_order_are_a_fair_permutation() -> None:
    import random

    firsts: Counter[int] = Counter()
    for seed in range(3000):
        order = list(in_random_order(random.Random(seed), 5))
        assert sorted(order) == [0, 1, 2, 3, 4]
        firsts[order[1]] += 1
    assert all(abs(count / 3000 - 0.2) < 0.03 for count in firsts.values())


def test_examples_come_from_other_rows_and_their_number_is_uniform() -> None:
    rows = SETS[0].rows
    config = ExamplesConfig(max_per_query=5)
    counts: Counter[int] = Counter()
    for step in range(3000):
        examples = shown(batch_of(rows, step=step), range(7, 8), config)
        counts[len(examples)] += 1
        assert len({example.query for example in examples}) == len(examples)
        for example in examples:
            assert example.query != rows[7].query
            assert example.response != rows[7].response
    assert set(counts) == {0, 1, 2, 3, 4, 5}
    assert all(abs(count / 3000 - 1 / 6) < 0.03 for count in counts.values())


def test_a_group_never_sees_its_own_rows() -> None:
    config = ExamplesConfig(sharing="per_group")
    for step in range(200):
        examples = shown(batch_of(SETS[0].rows, step=step), range(4, 12), config)
        own = {SETS[0].rows[number].query for number in range(4, 12)}
        assert not own & {example.query for example in examples}


def test_a_batch_shares_examples_from_outside_of_it_whatever_the_rank() -> None:
    config = ExamplesConfig(sharing="per_batch", max_per_query=5)
    seen = 0
    for step in range(200):
        batch = batch_of(SETS[0].rows[:12], step=step)
        first, second = shown(batch, range(6), config), shown(batch, range(6, 12), config)
        assert first == second
        assert not {example.query for example in first} & {row.query for row in batch.rows}
        seen += len(first)
    assert 2.2 < seen / 200 < 2.8


def test_every_rank_cuts_its_queries_into_readers_of_the_same_examples() -> None:
    mine = range(8, 16)
    assert readers_of(mine, ExamplesConfig()) == [range(n, n + 1) for n in mine]
    groups = readers_of(mine, ExamplesConfig(sharing="per_group", group_size=4))
    assert groups == [range(8, 12), range(12, 16)]
    assert readers_of(mine, ExamplesConfig(sharing="per_batch")) == [mine]


def test_fixed_examples_are_the_same_in_every_step_but_never_shown_to_themselves() -> None:
    config = ExamplesConfig(mode="fixed", fixed_count=3)
    fixed = {row.query for row in fixed_rows(SETS[0], 3, seed=1)}
    assert len(fixed) == 3
    for step in range(5):
        for position, row in enumerate(SETS[0].rows):
            examples = shown(batch_of(SETS[0].rows, step=step), range(position, position + 1), config)
            assert {example.query for example in examples} == fixed - {row.query}


def test_the_mode_none_shows_nothing() -> None:
    assert shown(batch_of(SETS[0].rows), range(1), ExamplesConfig(mode="none")) == []


def test_a_duplicate_of_the_query_or_its_answer_is_never_its_example() -> None:
    twin = Row("same", "x", "x", "", ())
    answer = Row("other", "the answer", "the answer", "", ())
    turned = Row("the answer", "same", "same", "", ())
    rows = [Row("same", "the answer", "the answer", "", ()), twin, answer, turned]
    for step in range(50):
        assert shown(batch_of(rows, step=step), range(1), ExamplesConfig()) == []


def test_label_tasks_alternate_between_label_and_text_targets() -> None:
    planned = (1, (0, 1, 2, 3))

    def made(planned: tuple[int, tuple[int, ...]], step: int, target: str) -> Batch:
        return make_batch(SETS, planned, step=step, config=TrainConfig(label_target=target), seed=1)

    assert [made(planned, step, "mixed").targets_labels for step in range(4)] == [True, False, True, False]
    assert not made((0, (0,)), 0, "label").targets_labels
    assert not made((0, (0,)), 0, "text").targets_texts


def test_a_kind_has_a_target_of_its_own() -> None:
    kind = SETS[1].kind
    config = TrainConfig(label_target="mixed", kinds={kind: KindRule(label_target="text")})
    made = [make_batch(SETS, (1, (0, 1)), step=step, config=config, seed=1) for step in range(4)]
    assert all(batch.targets_texts for batch in made)
    assert config.label_target_of("sts") == "mixed"


def test_another_text_of_the_same_label_is_drawn() -> None:
    row = SETS[1].rows[0]
    for step in range(20):
        text = draw_same_label(SETS[1], row, seed=1, step=step)
        [found] = [other for other in SETS[1].rows if other.query == text]
        assert found.label == row.label
        assert found is not row
    lonely = Row("alone", "x", "x", "only one", ())
    assert (
        draw_same_label(made_set("c", "classification", "", 1.0, [lonely]), lonely, seed=1, step=0) == "alone"
    )


def test_negatives_are_cycled_only_when_there_are_too_few() -> None:
    def negatives(row: Row, count: int):
        rule = Rule(num_negatives=count, in_batch_negatives=True, distil=False)
        positive, *rest = draw_candidates(batch_of([row]), row, rule, text_shuffle=0.0, seed=1)
        assert positive.text == row.positive
        return [candidate.text for candidate in rest]

    row = Row("q", "p", "p", "", ("n1", "n2", "n3"))
    assert sorted(negatives(row, 3)) == ["n1", "n2", "n3"]
    assert Counter(negatives(row, 6)) == {"n1": 2, "n2": 2, "n3": 2}
    assert negatives(Row("q", "p", "p", "", ()), 2) == ["p", "p"]
    assert negatives(row, 0) == []


def test_scores_of_the_teacher_stay_with_their_texts() -> None:
    scores = {"n1": 1.0, "n2": None, "n3": 3.0}
    row = Row("q", "p", "p", "", tuple(scores), 9.0, tuple(scores.values()))
    for step in range(10):
        positive, *negatives = draw_candidates(
            batch_of([row], step=step), row, RULE, text_shuffle=0.0, seed=1
        )
        assert positive.score == 9.0
        assert {candidate.text: candidate.score for candidate in negatives} == scores


def test_text_targets_without_in_batch_negatives_meet_texts_of_other_labels() -> None:
    rule = Rule(num_negatives=4, in_batch_negatives=False, distil=False)
    label_of = {row.query: row.label for row in SETS[1].rows}
    batch = batch_of(SETS[1].rows, of=SETS[1])
    for row in batch.rows:
        positive, *negatives = draw_candidates(batch, row, rule, text_shuffle=0.0, seed=1)
        assert label_of[positive.text] == row.label
        assert len({candidate.text for candidate in negatives}) == 4
        assert all(label_of[candidate.text] != row.label for candidate in negatives)


def test_long_positives_are_shuffled_in_three_parts_in_the_share_asked_for() -> None:
    long = "".join(f"{number:03d} " for number in range(40))
    row = Row("q", long, long, "", ("n1",))
    parts = {long[start : start + len(long) // 3 + 1] for start in range(0, len(long), len(long) // 3 + 1)}
    changed = 0
    for step in range(600):
        positive = draw_candidates(batch_of([row], step=step), row, RULE, text_shuffle=0.5, seed=1)[0]
        assert positive.source == long
        if positive.text != long:
            changed += 1
            assert all(part in positive.text for part in parts)
    assert 0.42 < changed / 600 < 0.58
    short = Row("q", "short text", "", "", ())
    assert draw_candidates(batch_of([short]), short, RULE, text_shuffle=1.0, seed=1)[0].text == "short text"


def test_blanks_of_a_rule_are_filled_as_the_paper_says() -> None:
    config = TrainConfig(num_negatives=7)
    assert rule_of(config, "retrieval", targets_labels=False) == Rule(7, True, True)
    assert rule_of(config, "sts", targets_labels=False) == Rule(7, True, False)
    assert rule_of(config, "classification", targets_labels=True) == Rule(7, False, False)
    assert rule_of(config, "clustering", targets_labels=False) == Rule(7, True, False)
    given = TrainConfig.model_validate(
        {"kinds": {"retrieval": {"num_negatives": 1, "in_batch_negatives": False, "distil": False}}}
    )
    assert rule_of(given, "retrieval", targets_labels=False) == Rule(1, False, False)


def test_data_sets_that_cannot_be_trained_on_are_refused_by_name() -> None:
    with pytest.raises(TrainingError, match="data set b has 9 training rows, fewer than a batch of 16"):
        refuse_unusable(SETS, TrainConfig())
    small = TrainConfig.model_validate({"kinds": {"classification": {"batch_size": 8}}})
    refuse_unusable(SETS, small)
    shared = TrainConfig.model_validate({"batch_size": 9, "examples": {"sharing": "per_batch"}})
    with pytest.raises(TrainingError, match="data set b has 9 training rows, all in every batch"):
        refuse_unusable(SETS, shared)
    unlabelled = made_set("c", "clustering", "", 1.0, SETS[0].rows)
    with pytest.raises(
        TrainingError, match="data set c is of the kind clustering, but has rows without a label"
    ):
        refuse_unusable([unlabelled], TrainConfig())


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
