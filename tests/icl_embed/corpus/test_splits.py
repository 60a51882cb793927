from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_embed.corpus.rows import Collected, Passage, Row, normalised
from icl_embed.corpus.splits import Split, check_disjoint, split_data
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import Splits

word = st.sampled_from([f"{letter}{n}" for letter in "abcdefgh" for n in range(6)])
row = st.builds(
    lambda query, positive, group: Row(query, (positive,), groups=(group,) if group else ()),
    word,
    word.map(str.upper),
    st.sampled_from(["", "", "", "g1", "g2", "g3"]),
)


def forms(part):
    return {normalised(text) for r in part for text in (r.query, *r.positives)}


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
        forms(result.rows[s]) | {normalised(p.text) for p in result.passages[s]}
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


def test_given_names_that_fit_nothing_are_told():
    with pytest.raises(DataError, match="no row belongs to a split"):
        split_data(Collected([Row("q", given="part1")]), Splits(method="given"), shared_corpus=False)
