import random
import tempfile

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash

from icl_embed.corpus.deduplicate import (
    IndexedTexts,
    KeptTexts,
    buckets,
    choose_bands,
    jaccard,
    shingle_hashes,
    signatures,
)


def shingles(text: str) -> set[str]:
    return {text[i : i + 5] for i in range(len(text) - 4)} or {text}


def similarity(left: str, right: str) -> float:
    return len(shingles(left) & shingles(right)) / len(shingles(left) | shingles(right))


def texts_with_near_copies(count: int) -> list[tuple[str, str]]:
    rng = random.Random(5)
    texts = []
    for _ in range(count // 2):
        text = "".join(rng.choices("abcdefgh ", k=rng.randint(40, 160)))
        copy = list(text)
        for _ in range(rng.randint(0, 3)):
            copy[rng.randrange(len(copy))] = rng.choice("xyz")
        texts += [text, "".join(copy)]
    rng.shuffle(texts)
    return [(f"{number:04d}", text) for number, text in enumerate(texts)]


def find_near_duplicates(texts: list[tuple[str, str]], threshold: float) -> dict[str, set[str]]:
    """The name of each dropped text, and those of the kept texts that it repeats."""
    found, shingles = buckets(pa.array([text for _, text in texts]), threshold, 64)
    text_of = np.repeat(np.arange(len(texts)), found.shape[1])
    with tempfile.TemporaryFile() as scratch:
        kept = KeptTexts(threshold, text_of, found.ravel(), scratch)
        repeated = [kept.repeated_by(index, shingles.of(index)) for index in range(len(texts))]
    names = [name for name, _ in texts]
    return {names[i]: {names[other] for other in others} for i, others in enumerate(repeated) if others}


def test_near_duplicates_agree_with_comparing_all_pairs():
    texts, threshold = texts_with_near_copies(300), 0.8
    kept: list[tuple[str, str]] = []
    expected = {}
    for name, text in texts:
        repeated = {other for other, kept_text in kept if similarity(text, kept_text) >= threshold}
        if repeated:
            expected[name] = repeated
        else:
            kept.append((name, text))
    found = find_near_duplicates(texts, threshold)
    assert len(expected) > 50
    assert set(found) <= set(expected), "a false alarm"
    assert len(found) >= 0.97 * len(expected)
    for name, originals in found.items():
        assert originals <= expected[name], "only kept texts are repeated"


def test_recall_of_near_duplicates_at_the_threshold_is_as_promised():
    rng = random.Random(11)
    pairs = []
    while len(pairs) < 400:
        text = "".join(rng.choices("abcdefghijklmnop ", k=rng.randint(60, 300)))
        copy = list(text)
        for _ in range(1 + len(text) // 100):
            copy[rng.randrange(len(copy))] = "z"
        if 0.9 <= similarity(text, "".join(copy)) < 0.95:
            pairs.append((text, "".join(copy)))
    left, right = (buckets(pa.array(side), 0.9, 64)[0] for side in zip(*pairs, strict=True))
    assert (left == right).any(axis=1).mean() >= 0.98


def test_signatures_are_those_of_datasketch():
    keys = [text for _, text in texts_with_near_copies(60)] + ["", "on", "\U0001f600" * 9]
    shingles = shingle_hashes(pa.array(keys))
    found = signatures(shingles, 32)
    for index in range(len(keys)):
        reference = MinHash(num_perm=32, seed=1, hashfunc=int, scheme="affine32")
        reference.update_batch(shingles.of(index).tolist())
        assert found[:, index].tolist() == reference.hashvalues.tolist()


def test_signatures_do_not_depend_on_the_other_texts():
    keys = pa.array([f"text number {number} " * (1 + number % 40) for number in range(700)])
    together = buckets(keys, 0.9, 64)[0]
    for first, count in ((0, 1), (350, 200), (699, 1)):
        assert np.array_equal(buckets(keys.slice(first, count), 0.9, 64)[0], together[first : first + count])


def test_verified_similarity_is_that_of_the_shingle_sets():
    for (_, left), (_, right) in zip(texts_with_near_copies(40), texts_with_near_copies(42)[2:], strict=True):
        shingles = shingle_hashes(pa.array([left, right]))
        assert jaccard(shingles.of(0), shingles.of(1)) == pytest.approx(similarity(left, right))


def test_short_and_empty_texts_equal_only_themselves():
    texts = [("a", "on"), ("b", "off"), ("c", "on"), ("d", ""), ("e", "")]
    assert find_near_duplicates(texts, 0.9) == {"c": {"a"}, "e": {"d"}}


def test_shingles_do_not_depend_on_byte_width():
    shingles = shingle_hashes(pa.array(["\U0001f600" * 9, "abcdef"]))
    assert [len(shingles.of(0)), len(shingles.of(1))] == [1, 2]
    assert shingles.hashes.dtype == np.uint32


def test_no_text_has_no_bucket():
    found, shingles = buckets(pa.array([], pa.string()), 0.9, 64)
    assert found.shape == (0, 8)
    assert shingles.starts.tolist() == [0]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("permutations", [16, 64, 128])
def test_bands_miss_few_pairs_at_the_threshold(threshold, permutations):
    bands, rows = choose_bands(threshold, permutations)
    assert bands * rows <= permutations
    assert 1 - (1 - threshold**rows) ** bands >= 0.98 or rows == 1


def test_an_index_finds_every_near_duplicate_of_some_texts():
    base = "the quick brown fox jumps over the lazy dog and runs far away from here"
    far = "something else altogether, of about the same length as the others are"
    index = IndexedTexts(pa.array([base, far, base.replace("lazy", "lozy")]), 0.8, 64)
    assert index.matched_by(pa.array(["unlike all of them, as far as I can see", base])) == {0, 2}
    assert index.matched_by(pa.array([], pa.string())) == set()
    assert IndexedTexts(pa.array([], pa.string()), 0.8, 64).matched_by(pa.array([base])) == set()
