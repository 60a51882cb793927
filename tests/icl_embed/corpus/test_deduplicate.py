import random

import numpy as np
import pytest

from icl_embed.corpus.deduplicate import (
    NearDuplicates,
    choose_bands,
    find_near_duplicates,
    jaccard,
    shingle_hashes,
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


def test_near_duplicates_agree_with_comparing_all_pairs():
    texts, threshold = texts_with_near_copies(300), 0.8
    kept: list[tuple[str, str]] = []
    expected = set()
    for name, text in texts:
        if any(similarity(text, other) >= threshold for _, other in kept):
            expected.add(name)
        else:
            kept.append((name, text))
    found = find_near_duplicates(texts, threshold=threshold)
    assert len(expected) > 50
    assert set(found) <= expected, "a false alarm"
    assert len(found) >= 0.97 * len(expected)
    for name, original in found.items():
        assert original < name, "the first one is kept"


def test_verified_similarity_is_that_of_the_shingle_sets():
    for (_, left), (_, right) in zip(texts_with_near_copies(40), texts_with_near_copies(42)[2:], strict=True):
        assert jaccard(shingle_hashes(left), shingle_hashes(right)) == pytest.approx(similarity(left, right))


def test_short_and_empty_texts_equal_only_themselves():
    texts = [("a", "on"), ("b", "off"), ("c", "on"), ("d", ""), ("e", "")]
    assert find_near_duplicates(texts, threshold=0.9) == {"c": "a", "e": "d"}


def test_shingles_do_not_depend_on_byte_width():
    assert len(shingle_hashes("\U0001f600" * 9)) == 1
    assert shingle_hashes("abcdef").dtype == np.uint32


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("permutations", [16, 64, 128])
def test_bands_miss_few_pairs_at_the_threshold(threshold, permutations):
    bands, rows = choose_bands(threshold, permutations)
    assert bands * rows <= permutations
    assert 1 - (1 - threshold**rows) ** bands >= 0.98 or rows == 1


def test_an_index_finds_every_near_duplicate_of_a_text():
    index = NearDuplicates(0.8)
    base = "the quick brown fox jumps over the lazy dog and runs far away from here"
    index.add("same", base)
    index.add("near", base.replace("lazy", "lozy"))
    index.add("far", "something else altogether, of about the same length as the others are")
    assert index.find(base) == ["near", "same"]
