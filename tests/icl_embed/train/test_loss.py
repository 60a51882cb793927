import math
import random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_embed.train.embedder.loss import imitation, info_nce, mask_false_negatives


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_info_nce_equals_the_formula_written_out(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    masked = torch.rand(4, 9, generator=generator) < 0.4
    positive = torch.randint(0, 9, (4,), generator=generator)
    masked[torch.arange(4), positive] = False
    expected = 0.0
    for query in range(4):
        allowed = [math.exp(scores[query, passage]) for passage in range(9) if not masked[query, passage]]
        expected -= math.log(math.exp(scores[query, positive[query]]) / sum(allowed))
    assert math.isclose(info_nce(scores, positive, masked).item(), expected, rel_tol=1e-9)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_false_negatives_are_masked_exactly_where_the_rules_say(seed: int) -> None:
    rng = random.Random(seed)
    rows, group = 5, 3
    queries = [rng.randint(1, 4) for _ in range(rows)]
    labels = [rng.randint(0, 2) for _ in range(rows)]
    passages = [rng.randint(1, 12) for _ in range(rows * group)]
    mask = mask_false_negatives(
        query_Q=torch.tensor(queries),
        positive_Q=torch.tensor([passages[row * group] for row in range(rows)]),
        label_Q=torch.tensor(labels),
        passage_P=torch.tensor(passages),
        owner_query_P=torch.tensor([queries[p // group] for p in range(rows * group)]),
        owner_label_P=torch.tensor([labels[p // group] for p in range(rows * group)]),
        is_positive_P=torch.tensor([p % group == 0 for p in range(rows * group)]),
    )
    for row in range(rows):
        for passage in range(rows * group):
            owner, positive = passage // group, passage % group == 0
            expected = (
                passages[passage] == passages[row * group]
                or (positive and queries[owner] == queries[row])
                or (positive and labels[row] != 0 and labels[owner] == labels[row])
            )
            assert mask[row, passage].item() == expected


def scored(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores [4, 9], positives and masks, as a step has them."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    masked = torch.rand(4, 9, generator=generator) < 0.4
    positive = torch.randint(0, 9, (4,), generator=generator)
    masked[torch.arange(4), positive] = False
    return scores, positive, masked


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_imitation_equals_the_divergence_written_out(seed: int) -> None:
    student, _, masked = scored(seed)
    teacher, _, _ = scored(seed + 1)
    expected = 0.0
    for query in range(4):
        open_ = [passage for passage in range(9) if not masked[query, passage]]
        told = [math.exp(teacher[query, passage]) for passage in open_]
        said = [math.exp(student[query, passage]) for passage in open_]
        for one, other in zip(told, said, strict=True):
            expected += one / sum(told) * math.log((one / sum(told)) / (other / sum(said)))
    assert math.isclose(imitation(student, teacher, masked).item(), expected, rel_tol=1e-9, abs_tol=1e-12)
    assert abs(imitation(teacher, teacher, masked).item()) < 1e-12
