"""The plan in a few numbers is the one that lists of row numbers gave, and an epoch has every row once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_embed.config import OptimizerConfig
from icl_embed.train.plan import Planned, count_steps, plan_steps


class Set:
    """A data set as far as a plan looks at it."""

    def __init__(self, name: str, size: int, weight: float = 1.0) -> None:
        self.name, self.rows, self.weight = name, range(size), weight


def plan_slowly(sets: Sequence[Set], steps: int, batch_sizes: Sequence[int], seed: int) -> list[Planned]:
    """Queues of row numbers: the plan that every training so far was made with."""
    chooser = random.Random(f"{seed}:datasets")
    queues: list[list[int]] = [[] for _ in sets]
    epochs = [0] * len(sets)
    plan: list[Planned] = []
    for _ in range(steps):
        [chosen] = chooser.choices(range(len(sets)), [one.weight for one in sets])
        size = batch_sizes[chosen]
        if len(queues[chosen]) < size:
            queues[chosen] = list(range(len(sets[chosen].rows)))
            random.Random(f"{seed}:{sets[chosen].name}:{epochs[chosen]}").shuffle(queues[chosen])
            epochs[chosen] += 1
        plan.append((chosen, tuple(queues[chosen][:size])))
        del queues[chosen][:size]
    return plan


sizes = st.lists(
    st.tuples(st.integers(1, 7), st.integers(0, 30), st.floats(0.1, 2.0)), min_size=1, max_size=4
)


@given(sizes, st.integers(1, 60), st.integers(0, 5))
def test_every_step_is_what_it_was(found: list[tuple[int, int, float]], steps: int, seed: int) -> None:
    sets = [Set(f"s{number}", size + more, weight) for number, (size, more, weight) in enumerate(found)]
    batch_sizes = [size for size, _, _ in found]
    plan = plan_steps(sets, steps=steps, batch_sizes=batch_sizes, seed=seed)  # type: ignore[arg-type]
    expected = plan_slowly(sets, steps, batch_sizes, seed)
    assert list(plan) == expected
    order = random.Random(seed).sample(range(steps), steps)  # whoever resumes begins in the middle
    assert [plan[step] for step in order] == [expected[step] for step in order]


@given(sizes, st.integers(0, 5))
def test_an_epoch_by_rows_has_every_row_once_but_for_what_fills_no_batch(
    found: list[tuple[int, int, float]], seed: int
) -> None:
    sets = [Set(f"s{number}", size + more) for number, (size, more, _) in enumerate(found)]
    batch_sizes = [size for size, _, _ in found]
    optimizer = OptimizerConfig(steps=0, epochs=2.0)
    steps = count_steps(sets, optimizer, batch_sizes)  # type: ignore[arg-type]
    plan = plan_steps(sets, steps=steps, batch_sizes=batch_sizes, seed=seed, by_rows=True)  # type: ignore[arg-type]
    for epoch in (plan[: steps // 2], plan[steps // 2 :]):
        seen = Counter((chosen, row) for chosen, rows in epoch for row in rows)
        assert set(seen.values()) == {1}
        for number, (one, size) in enumerate(zip(sets, batch_sizes, strict=True)):
            assert sum(chosen == number for chosen, _ in epoch) == len(one.rows) // size
            assert all(len(rows) == size for chosen, rows in epoch if chosen == number)


def test_data_sets_are_mixed_anew_in_every_epoch() -> None:
    sets = [Set("a", 400), Set("b", 200)]
    plan = plan_steps(sets, steps=120, batch_sizes=[10, 10], seed=1, by_rows=True)  # type: ignore[arg-type]
    first, second = ([chosen for chosen, _ in part] for part in (plan[:60], plan[60:]))
    assert first != second and 4 < sum(first[:30]) < 16
    assert plan[:60] != plan_steps(sets, steps=60, batch_sizes=[10, 10], seed=2, by_rows=True)[:]  # type: ignore[arg-type]


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 60), (0.5, 30), (2.5, 150), (0.001, 1)])
def test_epochs_are_counted_in_steps(epochs: float, steps: int) -> None:
    sets = [Set("a", 409), Set("b", 200)]
    found = count_steps(sets, OptimizerConfig(steps=0, epochs=epochs), [10, 10])  # type: ignore[arg-type]
    assert found == steps
    assert count_steps(sets, OptimizerConfig(steps=7), [10, 10]) == 7  # type: ignore[arg-type]


@pytest.mark.parametrize("both", [{"epochs": 1.0}, {"steps": 3, "epochs": 1.0}, {"steps": 0}])
def test_one_setting_says_how_long_a_training_is(both: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"expected one of them: set the other to 0"):
        OptimizerConfig(**both)  # type: ignore[arg-type]
