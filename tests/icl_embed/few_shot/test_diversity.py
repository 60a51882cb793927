"""MMR, k-center and k-means against slow, obvious references."""

import itertools

import numpy as np
import pytest

from icl_embed.few_shot.strategies import choose_by_mmr, choose_k_center, find_centres, nearest_centre


def unit_vectors(seed, count=12, width=4):
    vectors = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def slow_mmr(vectors, relevance, count, share):
    chosen = []
    while len(chosen) < min(count, len(vectors)):

        def gain(row):
            likeness = max((float(vectors[row] @ vectors[other]) for other in chosen), default=0.0)
            return share * float(relevance[row]) - (1 - share) * likeness

        chosen.append(max((row for row in range(len(vectors)) if row not in chosen), key=gain))
    return chosen


def slow_k_center(vectors, count, first):
    chosen = [first]
    while len(chosen) < min(count, len(vectors)):
        left = [row for row in range(len(vectors)) if row not in chosen]
        chosen.append(max(left, key=lambda row: min(1 - float(vectors[row] @ vectors[c]) for c in chosen)))
    return chosen


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_mmr_equals_its_definition(seed, share):
    vectors = unit_vectors(seed)
    relevance = vectors @ unit_vectors(seed + 100, 1)[0]
    assert choose_by_mmr(vectors, relevance, 5, relevance_share=share) == slow_mmr(
        vectors, relevance, 5, share
    )


def test_mmr_with_full_relevance_is_plain_nearest():
    vectors = unit_vectors(1)
    relevance = vectors @ vectors[3]
    assert choose_by_mmr(vectors, relevance, 4, relevance_share=1.0) == list(np.argsort(-relevance)[:4])


def test_mmr_does_not_show_the_same_thing_twice():
    vectors = np.array([[1, 0], [1, 0], [0.8, 0.6]], np.float32)
    assert choose_by_mmr(vectors, vectors @ vectors[0], 2, relevance_share=0.4) == [0, 2]
    assert choose_by_mmr(vectors, vectors @ vectors[0], 9, relevance_share=0.4) == [0, 2, 1]


@pytest.mark.parametrize("seed", range(5))
def test_k_center_equals_its_definition(seed):
    vectors = unit_vectors(seed)
    assert choose_k_center(vectors, 5, first=2) == slow_k_center(vectors, 5, 2)
    assert sorted(choose_k_center(vectors, 99, first=0)) == list(range(12))


@pytest.mark.parametrize("seed", range(5))
def test_k_center_is_within_twice_the_best_radius(seed):
    vectors = unit_vectors(seed, 9)
    distance = np.arccos(np.clip(vectors @ vectors.T, -1, 1))  # a metric, which 1 - cosine is not

    def radius(rows):
        return distance[:, list(rows)].min(axis=1).max()

    best = min(radius(rows) for rows in itertools.combinations(range(9), 3))
    assert radius(choose_k_center(vectors, 3, first=0)) <= 2 * best + 1e-6


def test_no_vectors_give_no_choice():
    empty = np.zeros((0, 4), np.float32)
    assert choose_k_center(empty, 3, first=0) == []
    assert choose_by_mmr(empty, np.zeros(0, np.float32), 3, relevance_share=0.5) == []


def test_centres_find_groups_that_are_far_apart():
    groups = np.repeat(np.arange(3), 6)
    vectors = np.eye(3, dtype=np.float32)[groups] + 0.1 * unit_vectors(0, 18, 3)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = nearest_centre(vectors, find_centres(vectors, 3))
    assert len({(int(group), int(mine)) for group, mine in zip(groups, found, strict=True)}) == 3


@pytest.mark.parametrize("seed", range(5))
def test_centres_are_the_directions_of_their_own_groups(seed):
    vectors = unit_vectors(seed, 40)
    centres = find_centres(vectors, 5)
    groups = nearest_centre(vectors, centres)
    for number, centre in enumerate(centres):
        mean = np.mean([vectors[row] for row in range(40) if groups[row] == number], axis=0)
        np.testing.assert_allclose(centre, mean / np.linalg.norm(mean), atol=1e-5)


def test_there_are_never_more_centres_than_vectors():
    same = np.tile(unit_vectors(0, 1), (4, 1))
    assert len(find_centres(same, 3)) == 1
    assert len(find_centres(unit_vectors(0, 2), 5)) == 2
