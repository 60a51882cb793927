import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_embed.texts import clean_texts, compared_column, compared_form

TEXTS = st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40), max_size=8)


def clean(text: str | None) -> str:
    return clean_texts(pa.array([text], pa.string()))[0].as_py()


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("e\u0301", "\u00e9"),
        ("nul\0 bell\a", "nul bell"),
        ("  outer\u00a0\u3000", "outer"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("\ufeffmark", "mark"),
        ("inner  space\tstays", "inner  space\tstays"),
        ("\U0001f468\u200d\U0001f4bb", "\U0001f468\u200d\U0001f4bb"),
        (None, ""),
        (" \t\u200b", ""),
    ],
)
def test_the_stored_form_keeps_what_is_visible_and_drops_the_rest(text, stored):
    assert clean(text) == stored


@pytest.mark.parametrize(
    "variant", ["Tokyo  Tower", "tokyo tower", " TOKYO\n\tTOWER ", "to\u00adkyo\u00a0tower"]
)
def test_case_white_space_and_invisible_characters_do_not_make_a_text_different(variant):
    assert compared_form(variant) == "tokyo tower"


def test_punctuation_makes_a_text_different():
    assert len({compared_form(name) for name in ("C", "C#", "C++")}) == 3


@given(TEXTS)
def test_both_forms_are_stable_normalised_and_never_null(texts):
    stored = clean_texts(pa.array(texts, pa.string()))
    keys = compared_column(pa.array(texts, pa.string()))
    assert clean_texts(stored).equals(stored)
    assert stored.null_count == keys.null_count == 0
    for text in [*stored.to_pylist(), *keys.to_pylist()]:
        assert unicodedata.normalize("NFC", text) == text
        assert not any(unicodedata.category(c) == "Cc" and c not in "\t\n" for c in text)


def test_the_compared_form_of_the_stored_form_is_the_compared_form():
    texts = pa.array(["A\0 B", "caf\u0065\u0301", " \u2066x\u2069  Y"])
    assert compared_column(clean_texts(texts)).equals(compared_column(texts))


def test_a_part_of_a_long_column_has_the_same_keys() -> None:
    texts = [f"Text {number}" for number in range(50)] + ["Straße"]
    part = pa.array(texts, pa.large_string())[20:]
    keys = compared_column(part)
    keys.validate(full=True)
    assert pa.concat_arrays([keys]).to_pylist() == [compared_form(text) for text in texts[20:]]
