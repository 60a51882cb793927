from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_embed.corpus.rows import Collected, Passage, Row, stable_hash
from icl_embed.corpus.splits import Split, check_disjoint, split_data
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import Splits
from icl_embed.texts import compared_form

word = st.sampled_from([f"{letter}{n}" for letter in "abcdefgh" for n in range(6)])
row = st.builds(
    lambda query, positive, group: Row(query, (positive,), groups=(group,) if group else ()),
    word,
    word.map(str.upper),
    st.sampled_from(["", "", "", "g1", "g2", "g3"]),
)


def forms(part):
    return {compared_form(text) for r in part for text in (r.query, *r.positives)}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(row, min_size=1, max_size=30),
    st.lists(word.map(Passage), max_size=10),
    st.sampled_from(["hash", "text"]),
)
def test_no_text_is_ever_in_two_splits(rows, passages, method):
    splits = Splits(method=method, train=0.5, dev=0.2, test=0.3)
    collected = Collected(rows, passages, Counter())
    try:
        result = split_data(collected, splits, shared_corpus=False)
    except DataError as error:
        assert "split is empty" in str(error)
        return
    seen = [
        forms(result.rows[s]) | {compared_form(p.text) for p in result.passages[s]}
        for s in ("train", "dev", "test")
    ]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
    dropped = collected.rejected["texts of two splits"]
    assert sum(len(part) for part in result.rows.values()) + dropped == len(rows)
    if method == "hash":
        assert dropped == 0
        owners = {}
        for name, part in result.rows.items():
            for r in part:
                for group in r.groups:
                    owners.setdefault(group, set()).add(name)
        assert all(len(names) == 1 for names in owners.values())


def test_the_fractions_are_met_on_average():
    rows = [Row(f"query {i}", (f"positive {i}",)) for i in range(5000)]
    result = split_data(Collected(rows), Splits(train=0.7, dev=0.1, test=0.2), shared_corpus=False)
    assert [round(len(result.rows[s]) / 5000, 1) for s in ("train", "dev", "test")] == [0.7, 0.1, 0.2]


def test_a_leak_would_be_found():
    leak = Split({"train": [Row("A  text")], "dev": [], "test": [Row("a TEXT")]}, {})
    with pytest.raises(DataError, match="'a text' is in the splits train and test"):
        check_disjoint(leak, shared_corpus=False)


def test_of_a_shared_corpus_only_the_queries_are_apart():
    both = Split({"train": [Row("q1", ("same",))], "dev": [], "test": [Row("q2", ("same",))]}, {})
    check_disjoint(both, shared_corpus=True)
    with pytest.raises(DataError, match="same"):
        check_disjoint(both, shared_corpus=False)


def test_a_passage_that_answers_nothing_may_be_in_two_splits():
    shared = {"train": [Passage("a passage")], "dev": [], "test": [Passage("A passage")]}
    check_disjoint(Split({"train": [Row("q1", ("p1",))], "dev": [], "test": []}, shared), shared_corpus=False)
    leak = Split({"train": [Row("q1", ("a passage",))], "dev": [], "test": []}, shared)
    with pytest.raises(DataError, match="'a passage' is in the splits train and test"):
        check_disjoint(leak, shared_corpus=False)


def sizes(rows, splits):
    result = split_data(Collected(list(rows), rejected=Counter()), splits, shared_corpus=False)
    return {name: len(part) for name, part in result.rows.items()}, result


@pytest.mark.parametrize("method", ["hash", "text"])
def test_rows_that_a_hash_split_chose_can_be_split_by_hash_again(method):
    rows, splits = [Row(f"query {i}") for i in range(500)], Splits(method=method)
    for generation in range(3):  # our own training rows, exported and read again, and once more
        found, result = sizes(rows, splits)
        assert 0.70 < found["train"] / len(rows) < 0.90, generation
        rows = result.rows["train"]


def test_a_draw_by_chance_stays_as_it_was():
    splits = Splits(train=0.7, dev=0.1, test=0.2)
    rows = [Row(f"query {i}") for i in range(300)]
    _, result = sizes(rows, splits)
    for name, low, high in (("train", 0.0, 0.7), ("dev", 0.7, 0.8), ("test", 0.8, 1.0)):
        for one in result.rows[name]:
            assert low <= stable_hash(f"split:text:{one.query}") / 2**64 < high


def test_few_rows_that_hang_together_are_no_reason_to_draw_again():
    with pytest.raises(DataError, match="test split is empty"):
        sizes([Row(f"query {i}", ("hub",)) for i in range(900)], Splits())
