from collections import Counter

import pytest

from icl_embed.corpus.templates import exploded, fulfils, joined, scored_texts_of, text_of, texts_of
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


def scored(texts, scores, **more):
    rejected = Counter()
    record = {"t": texts, "_file": "f", "_number": 7} | ({} if scores is None else {"s": scores}) | more
    return *scored_texts_of("negative", "{t?}", "{s?}", record, rejected), dict(+rejected)


def test_scores_stay_with_their_texts():
    assert scored(["a", "b"], [1, "2.5"]) == (("a", "b"), (1.0, 2.5), {})
    assert scored(["a", "b"], None) == (("a", "b"), None, {})
    assert scored("a", 3) == (("a",), (3.0,), {})
    assert scored(None, None) == ((), None, {}), "an optional field that is absent is no empty text"
    for bad in (["x"], [float("nan")], [True], [10**400]):
        with pytest.raises(DataError, match="f, record 7.*finite number"):
            scored(["a"], bad)


@pytest.mark.parametrize("scores", [[0.3, 0.0, 0.2], [0.3, None, 0.2], [0.3, 0.2]])
@pytest.mark.parametrize("nothing", ["", "  ", None])
def test_an_empty_text_goes_with_its_score_and_is_counted(nothing, scores):
    assert scored(["a", nothing, "b"], scores) == (("a", "b"), (0.3, 0.2), {"empty negative": 1})
    assert scored(["a", nothing], None) == (("a",), None, {"empty negative": 1})


def test_scores_that_fit_no_texts_are_told_with_file_and_record():
    with pytest.raises(DataError, match="f, record 7: 1 negative scores for 3 negatives"):
        scored(["a", "", "b"], [0.3])


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
