from collections import Counter

import pytest

from icl_embed.corpus.templates import exploded, fulfils, joined, numbers_of, text_of, texts_of
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import Condition, Join

RECORD = {
    "a": "x",
    "n": 2,
    "f": 0.5,
    "t": True,
    "none": None,
    "list": ["p", "", "q"],
    "one": ["o"],
    "_file": "f",
    "_number": 3,
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{a}-{n}", "x-2"),
        (" {none} {a} ", "x"),
        ("{{{a}}}", "{x}"),
        ("{f} {t}", "0.5 true"),
        ("{missing?}{a}", "x"),
        ("{missing|none|a}", "x"),
        ("{one}", "o"),
        ("plain", "plain"),
    ],
)
def test_fields_are_filled_in(template, text):
    assert text_of(template, RECORD) == text


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{missing}", 'f, record 3: no field "missing"; it has: a, n, f'),
        ("{list}", "found 3 values; explode"),
        ("{a", "lone '{'"),
        ("a}", "lone '}'"),
    ],
)
def test_what_cannot_be_filled_in_is_told(template, reason):
    with pytest.raises(DataError, match=reason):
        text_of(template, RECORD)


def test_a_lone_field_keeps_its_list_without_the_empty_texts():
    assert texts_of("{list}", RECORD) == ["p", "q"]
    assert texts_of(("{a}", "{list}"), RECORD) == ["x", "p", "q"]
    assert texts_of("", RECORD) == []


def test_a_field_with_code_like_braces_is_data_not_a_template():
    assert text_of("{a}", {"a": "{b}"}) == "{b}"


def test_numbers_are_finite():
    assert numbers_of("{s}", {"s": [1, "2.5"]}) == [1.0, 2.5]
    assert numbers_of("{s?}", {}) is None
    for bad in (["x"], [float("nan")], [True], [10**400]):
        with pytest.raises(DataError, match="finite number"):
            numbers_of("{s}", {"s": bad})


@pytest.mark.parametrize(
    ("condition", "value", "fits"),
    [
        ({"among": ("a", "b")}, "a", True),
        ({"not_among": ("a",)}, "a", False),
        ({"min": 1, "max": 2}, "1.5", True),
        ({"min": 1}, "0.5", False),
        ({"min": 1}, None, False),
        ({"matches": "^x"}, "xy", True),
        ({"not_matches": "y"}, "xy", False),
        ({"min_characters": 1}, None, False),
        ({"max_characters": 2}, "abc", False),
        ({"among": ("a",), "min_characters": 2}, "a", False),
    ],
)
def test_conditions(condition, value, fits):
    assert fulfils({"v": value}, {"v": Condition(**condition)}) is fits


def test_exploding_gives_one_record_per_element():
    records = [{"a": ["x", "y"], "b": 1}, {"a": [], "b": 2}, {"a": "z", "b": 3}, {"b": 4}]
    assert list(exploded(records, "a")) == [{"a": "x", "b": 1}, {"a": "y", "b": 1}, {"a": "z", "b": 3}]


def test_records_without_a_partner_are_counted():
    rejected: Counter[str] = Counter()
    join = Join(table="other", on="{k}", key="{id}", prefix="o")
    found = list(joined([{"k": "1"}, {"k": "2"}], join, [{"id": 1, "v": "x"}], rejected))
    assert found == [{"k": "1", "o.id": 1, "o.v": "x"}]
    assert rejected == {"no partner in other": 1}
