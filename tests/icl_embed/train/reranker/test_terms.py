"""What the reranker learns from, term by term, against slow and obvious formulas."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from icl_embed.config import RerankConfig
from icl_embed.rerank.reranker import Reranker
from icl_embed.rerank.shape import Shape
from icl_embed.train.reranker.batches import Group, draw_group, draw_width
from icl_embed.train.reranker.objective import ABSENT, teacher_loss
from icl_embed.train.rows import TrainingSet
from tests.icl_embed.train.reranker.test_distill import CONFIG, HERE, make_objective, toy_set
from tests.made_rows import made_set

SEED = 3  # of make_objective


def kl(teacher: Sequence[float], student: Sequence[float]) -> float:
    weights = [[math.exp(value - max(values)) for value in values] for values in (teacher, student)]
    p, q = ([value / sum(values) for value in values] for values in weights)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def by_head(reranker: Reranker, group: Group, shape: Shape) -> list[list[float]]:
    """Scores [H, G] of a group at every head, from the reranker that users hold."""
    reranker.model.eval()
    scores = reranker.score_exits([(group.query, text) for text in group.passages], shape).scores
    reranker.model.train()
    return [list(map(float, head)) for head in scores]


def groups_of(training_set: TrainingSet, config: RerankConfig) -> list[Group]:
    """Step 0 of a set that is one batch: the groups in an order of their own."""
    return [draw_group(row, training_set.rows, config, seed=SEED, step=0) for row in training_set.rows]


@pytest.fixture
def reranker(make_reranker: Callable[..., Reranker]) -> Reranker:
    return make_reranker(config=CONFIG)


def one_batch(**changes: object) -> RerankConfig:
    return CONFIG.model_copy(update={"batch_size": 8, "compress_ratios_trained": (2,), **changes})


@pytest.mark.parametrize("whom", ["none", "final", "uncompressed"])
def test_the_loss_is_the_weighted_sum_of_its_terms(reranker: Reranker, whom: str) -> None:
    config = one_batch(self_distillation=whom, contrastive_weight=0.5, distillation_weight=3.0)
    objective = make_objective(reranker, config)
    assert objective.shape_of(0) == Shape(4, 2, (1,))
    loss, sums = objective.loss(0, HERE)
    cross, divergence = [], []
    for group in groups_of(toy_set(), config):
        heads = by_head(reranker, group, Shape(4, 2, (1,)))
        full = by_head(reranker, group, Shape(4))[-1]
        for head in heads:
            cross.append(-head[0] + math.log(sum(map(math.exp, head))))
            divergence.append(kl(heads[-1] if whom == "final" else full, head))
    assert sums["contrastive_loss"] == pytest.approx(sum(cross) / len(cross), rel=1e-4)
    expected = 0.5 * sum(cross) / len(cross)
    if whom == "none":
        assert "distillation_loss" not in sums
    else:
        assert sums["distillation_loss"] == pytest.approx(sum(divergence) / len(divergence), rel=1e-3)
        expected += 3.0 * sum(divergence) / len(divergence)
    assert loss.item() == pytest.approx(expected, rel=1e-3)
    assert "teacher_loss" not in sums


def test_every_layers_accuracy_is_in_the_log(reranker: Reranker) -> None:
    config = one_batch()
    _, sums = make_objective(reranker, config).loss(0, HERE)
    hits = [0, 0, 0]
    for group in groups_of(toy_set(), config):
        for number, head in enumerate(by_head(reranker, group, Shape(4, 2, (1,)))):
            hits[number] += head[0] > max(head[1:])
    assert [sums[f"accuracy_layer_{layer}"] for layer in (2, 3, 4)] == hits
    assert sums["accuracy"] == hits[-1]


def taught_set() -> TrainingSet:
    """The teacher scored all pairs but one negative each, and one row not at all."""
    rows = [
        dataclasses.replace(row, positive_score=2.0 + number, negative_scores=(0.5, 3.0, None, -1.0))
        for number, row in enumerate(toy_set().rows)
    ]
    rows[3] = toy_set().rows[3]
    return made_set("toy", "retrieval", "Find it.", 1.0, rows)


def test_every_head_learns_the_scores_of_an_external_teacher(reranker: Reranker) -> None:
    config = one_batch(num_negatives=4, num_easy_negatives=2, self_distillation="none", teacher_weight=2.0)
    objective = make_objective(reranker, config, training_set=taught_set())
    loss, sums = objective.loss(0, HERE)
    divergence, unscored = [], 0
    for group in groups_of(taught_set(), config):
        known = [number for number, score in enumerate(group.scores) if not math.isnan(score)]
        unscored += len(group.scores) - len(known)
        for head in by_head(reranker, group, Shape(4, 2, (1,))):
            scored = 0 in known and len(known) > 1
            teacher = [group.scores[number] for number in known]
            divergence.append(kl(teacher, [head[number] for number in known]) if scored else 0.0)
    assert unscored > 8
    assert sums["teacher_loss"] == pytest.approx(sum(divergence) / len(divergence), rel=1e-3)
    assert loss.item() == pytest.approx(sums["contrastive_loss"] + 2 * sums["teacher_loss"], rel=1e-5)
    off = make_objective(
        reranker, config.model_copy(update={"teacher_weight": 0.0}), training_set=taught_set()
    )
    assert "teacher_loss" not in off.loss(0, HERE)[1]


def test_candidates_without_a_teachers_score_take_no_part_and_give_no_nan() -> None:
    nan = math.nan
    scores = torch.tensor([[[1.0, 2.0, 0.5], [0.3, 0.1, ABSENT], [1.0, 0.0, 2.0]]] * 2, requires_grad=True)
    teacher = torch.tensor([[3.0, nan, 1.0], [nan, 1.0, nan], [0.0, 1.0, 2.0]])
    loss: Tensor = teacher_loss(scores, teacher)
    expected = (kl([3.0, 1.0], [1.0, 0.5]) + kl([0.0, 1.0, 2.0], [1.0, 0.0, 2.0])) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert scores.grad is not None and torch.isfinite(scores.grad).all()
    assert scores.grad[:, 0, 1].abs().sum() == 0 and scores.grad[:, 1].abs().sum() == 0


def test_a_step_draws_a_ratio_and_where_asked_a_part_of_the_layers() -> None:
    config = CONFIG.model_copy(update={"compress_layers": (1, 2, 3), "compress_ratios_trained": (1, 2, 4)})
    whole = [draw_width(config, seed=1, step=step) for step in range(60)]
    assert {ratio for ratio, _ in whole} == {1, 2, 4}
    assert {layers for _, layers in whole} == {(1, 2, 3)}
    random = config.model_copy(update={"compress_subsets": True})
    drawn = [draw_width(random, seed=1, step=step) for step in range(200)]
    assert drawn == [draw_width(random, seed=1, step=step) for step in range(200)]
    assert drawn != [draw_width(random, seed=2, step=step) for step in range(200)]
    assert {layers for _, layers in drawn} == {(1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)}
    assert [ratio for ratio, _ in drawn[:60]] == [ratio for ratio, _ in whole]


def test_two_ranks_share_a_teachers_loss_even_if_one_has_no_scored_row(reranker: Reranker) -> None:
    """All ranks must report the same figures, or their sums would be mixed up."""
    from icl_embed.train.distributed import Place

    config = one_batch(num_negatives=4)
    objective = make_objective(reranker, config, training_set=taught_set())
    alone, sums = objective.loss(0, HERE)
    parts = [objective.loss(0, Place(rank, 8, HERE.device, HERE.dtype)) for rank in range(8)]
    assert {tuple(sorted(part[1])) for part in parts} == {tuple(sorted(sums))}
    torch.testing.assert_close(torch.stack([part[0] for part in parts]).sum(), alone)
    assert sum(part[1]["teacher_loss"] for part in parts) == pytest.approx(sums["teacher_loss"], rel=1e-4)
    assert min(part[1]["teacher_loss"] for part in parts) == 0.0
