"""A new definition beside what an operator changed of the old one's deployment."""

from __future__ import annotations

import pytest

from flows.deploying import merge

WEEKLY = {"cron": "0 4 * * 1", "active": False}
ON = {**WEEKLY, "active": True}


@pytest.mark.parametrize(
    ("new", "then", "now", "expected"),
    [
        ({"a": 2}, {"a": 1}, {"a": 1}, {"a": 2}),  # only the definition changed
        ({"a": 2}, {"a": 1}, {"a": 3}, {"a": 3}),  # both: the operator's goes first
        ({"a": 1}, {"a": 1}, {}, {}),  # removed by the operator
        ({}, {"a": 1}, {"a": 1}, {}),  # removed by the definition
        ({}, {"a": 1}, {"a": 2}, {"a": 2}),
        ({}, {}, {"a": 1}, {"a": 1}),  # added by the operator
        ({"a": 1}, {}, {}, {"a": 1}),  # added by the definition
        ({"p": {"a": 2, "b": 2}}, {"p": {"a": 1, "b": 1}}, {"p": {"a": 1, "b": 9}}, {"p": {"a": 2, "b": 9}}),
        (
            {"schedules": {"weekly": {**WEEKLY, "cron": "0 5 * * 1"}}},
            {"schedules": {"weekly": {**WEEKLY, "slug": "weekly"}}},
            {"schedules": {"weekly": {**ON, "slug": "weekly"}, "interval 60.0": {"interval": 60.0}}},
            {
                "schedules": {
                    "weekly": {"cron": "0 5 * * 1", "active": True},
                    "interval 60.0": {"interval": 60.0},
                }
            },
        ),
        ({"limit": {"limit": 1}}, {"limit": {"limit": 1}}, {"limit": {}}, {"limit": {}}),
    ],
)
def test_the_operators_changes_go_before_a_new_definition(
    new: dict[str, object], then: dict[str, object], now: dict[str, object], expected: dict[str, object]
) -> None:
    assert merge(new, then, now) == expected
