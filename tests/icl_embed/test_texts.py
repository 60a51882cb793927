"""One answer to whether two texts are the same, whoever asks."""

import unicodedata

import pyarrow as pa
import pytest

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.leaks import refuse_leaks
from icl_embed.examples import Example
from icl_embed.few_shot.candidates import without_texts
from icl_embed.pool.examples import Candidate
from icl_embed.texts import compared_column, compared_form
from tests.icl_embed.evaluation.folders import make_dataset

SAME = [
    ("Straße", "STRASSE"),
    ("ﬁle", "FILE"),
    ("Ｔｏｋｙｏ　Tower", "tokyo tower"),
    ("e\u0301tude", "ÉTUDE"),
    ("zero\u200bwidth", "ZeroWidth"),
    ("\ufeff  two\n lines\t", "two lines"),
    ("ΣΊΣΥΦΟΣ", "σίσυφος"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_what_looks_alike_up_to_case_and_space_is_the_same_text(first: str, second: str) -> None:
    assert compared_form(first) == compared_form(second)


@pytest.mark.parametrize(
    ("first", "second"), [("C", "C#"), ("C#", "C++"), ("resume", "résumé"), ("ab", "a b")]
)
def test_punctuation_accents_and_words_make_a_difference(first: str, second: str) -> None:
    assert compared_form(first) != compared_form(second)


def test_a_form_is_its_own_form_whatever_the_character() -> None:
    for code in range(0x20000):  # the planes beyond hold ideographs and nothing that folds
        if unicodedata.category(chr(code)) == "Cs":
            continue  # half of a pair: no text has it alone
        form = compared_form(f"a{chr(code)}\u0301")
        assert compared_form(form) == form, hex(code)


def test_a_column_has_the_forms_of_its_texts() -> None:
    texts = [text for pair in SAME for text in pair]
    expected = [compared_form(text) for text in texts]
    assert compared_column(pa.array([*texts, None])).to_pylist() == [*expected, ""]


def test_nobody_lets_an_example_pass_that_another_refuses(tmp_path) -> None:  # type: ignore[no-untyped-def]
    dataset = make_dataset(tmp_path, "retrieval")
    for first, second in SAME:
        example = Example(first, "an answer")
        assert without_texts([Candidate(example, "")], [second]) == []
        with pytest.raises(EvaluationError, match="test split"):
            refuse_leaks(dataset, [example], [second])
