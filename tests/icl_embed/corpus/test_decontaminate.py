import re

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from icl_embed.corpus.decontaminate import HashSieve, ngram_hashes, split_words
from icl_embed.texts import compared_column

TEXTS = st.lists(st.text(alphabet="ab .,\u00e9", max_size=30), max_size=10)


def grams_of(text: str, size: int) -> list[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]


@given(TEXTS, st.integers(1, 4))
def test_ngrams_equal_those_of_a_slow_loop(texts, size):
    text_of, hashes = ngram_hashes(split_words(compared_column(pa.array(texts, pa.string()))), size)
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
    text_of, hashes = ngram_hashes(split_words(pa.array(["a b c", "c b a", "a, b; c!"])), 3)
    assert text_of.tolist() == [0, 1, 2]
    assert hashes[0] != hashes[1]
    assert hashes[0] == hashes[2]


def test_word_counts_include_texts_without_words():
    assert split_words(pa.array(["one two", "", "...", "drei"])).counts().tolist() == [2, 0, 0, 1]


def test_texts_shorter_than_the_run_have_no_ngram():
    assert len(ngram_hashes(split_words(pa.array(["one two", "three"])), 3)[1]) == 0


def test_words_are_runs_of_letters_marks_and_digits_of_any_script():
    keys = pa.array(
        ["na\u00efve caf\u00e9", "\u0915\u094d\u092f\u093e \u0967\u0968", "a_b", "\u6771\u4eac 2\u00d73"]
    )
    assert split_words(keys).counts().tolist() == [2, 2, 2, 3]


def test_a_text_has_the_same_words_in_any_block_and_slice():
    keys = pa.array([f"word{number} and so on" for number in range(2_500)])
    words = split_words(keys)
    assert words.counts().tolist() == [4] * 2_500
    assert len(np.unique(words.hashes)) == 2_503
    assert np.array_equal(split_words(keys.slice(1_500, 3)).hashes, words.hashes[6_000:6_012])


def test_a_sieve_never_misses_a_member_and_lets_few_strangers_pass():
    rng = np.random.default_rng(3)
    members, strangers = rng.integers(0, 1 << 63, (2, 20_000), dtype=np.uint64)
    sieve = HashSieve(bits=20)
    sieve.add(members[:10_000])
    sieve.add(members[10_000:])
    assert sieve.may_hold(members).all()
    assert 0 < sieve.may_hold(strangers).mean() < 0.03
    assert sieve.may_hold(members[:0]).tolist() == []
