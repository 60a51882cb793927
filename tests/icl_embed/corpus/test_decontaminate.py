import re

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from icl_embed.corpus.decontaminate import ngram_hashes, split_words

TEXTS = st.lists(st.text(alphabet="ab .,\u00e9", max_size=30), max_size=10)


def grams_of(text: str, size: int) -> list[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]


@given(TEXTS, st.integers(1, 4))
def test_ngrams_equal_those_of_a_slow_loop(texts, size):
    text_of, hashes = ngram_hashes(split_words(pa.array(texts, pa.string())), size)
    expected = [(index, gram) for index, text in enumerate(texts) for gram in grams_of(text, size)]
    assert text_of.tolist() == [index for index, _ in expected]
    # the same gram has the same hash everywhere, another gram another one
    names = dict(zip([gram for _, gram in expected], hashes.tolist(), strict=True))
    assert [names[gram] for _, gram in expected] == hashes.tolist()
    assert len(set(names.values())) == len(names)


def test_hashes_do_not_depend_on_the_other_texts_of_a_batch():
    alone = ngram_hashes(split_words(pa.array(["one two three four"])), 3)[1]
    _, together = ngram_hashes(split_words(pa.array(["zero", "", "one two three four"])), 3)
    assert np.array_equal(alone, together)


def test_the_order_of_words_matters():
    text_of, hashes = ngram_hashes(split_words(pa.array(["a b c", "c b a", "A, b; C!"])), 3)
    assert text_of.tolist() == [0, 1, 2]
    assert hashes[0] != hashes[1]
    assert hashes[0] == hashes[2]


def test_word_counts_include_texts_without_words():
    assert split_words(pa.array(["one two", "", "...", "drei"])).counts().tolist() == [2, 0, 0, 1]


def test_texts_shorter_than_the_run_have_no_ngram():
    assert len(ngram_hashes(split_words(pa.array(["one two", "three"])), 3)[1]) == 0
