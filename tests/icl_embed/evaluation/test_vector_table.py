"""Vectors by text, checked against a plain dictionary."""

import numpy as np

from icl_embed.model.cached_encoding import VectorTable, digest_of


def test_it_finds_what_a_dictionary_finds():
    rng = np.random.default_rng(0)
    table, plain = VectorTable(3), {}
    for _ in range(20):
        texts = [f"text {n}" for n in rng.integers(0, 60, size=rng.integers(1, 9))]
        vectors = rng.normal(size=(len(texts), 3)).astype(np.float32)
        table.add(list(map(digest_of, texts)), vectors)
        for text, vector in zip(texts, vectors, strict=True):
            plain.setdefault(text, vector)
    asked = [f"text {n}" for n in rng.integers(0, 60, size=200) if f"text {n}" in plain]
    assert np.array_equal(
        table.take(table.rows_of(list(map(digest_of, asked)))), [plain[text] for text in asked]
    )
    assert all((digest_of(f"text {n}") in table) == (f"text {n}" in plain) for n in range(60))
    assert table.take(table.rows_of([])).shape == (0, 3)


def test_texts_that_differ_in_anything_have_other_digests():
    texts = ["a", "A", "a ", "", "\ud800", "a\u0301", "\u00e1", "é"]
    assert len(set(map(digest_of, texts))) == len(texts)
