"""The loss of a step against the formula written out, and what is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from icl_embed.errors import TrainingError
from icl_embed.train.embedder.loss import distillation
from icl_embed.train.embedder.prepare import PreparedStep, Prompt, plan_micro_batches, repeat_shortest
from tests.icl_embed.train.gradients import ALONE, make_objective
from tests.training_jobs import make_job, write_rows

TEMPERATURE = 0.02


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "train.parquet")


def written_out(prepared: PreparedStep, vectors: torch.Tensor, *, dims, weight: float) -> float:
    """InfoNCE + weight · KL, averaged over dimensions and queries, with loops and no masks of ours."""
    candidates, queries = prepared.candidates, prepared.query_hashes
    flat = [(owner, one) for owner, texts in enumerate(candidates) for one in texts]
    total = 0.0
    for width in dims:
        cut = torch.nn.functional.normalize(vectors[:, :width], dim=1).double()
        passages = cut[prepared.num_queries :][list(prepared.passage_of)]
        for row, texts in enumerate(candidates):
            scores = (passages @ cut[row] / TEMPERATURE).tolist()
            label = prepared.label_hashes[row]
            negatives = []
            for column, (owner, one) in enumerate(flat):
                positive = one is candidates[owner][0]
                related = positive and (
                    queries[owner] == queries[row] or (label and prepared.label_hashes[owner] == label)
                )
                foreign = owner != row and not prepared.rule.in_batch_negatives
                if one.source != texts[0].source and not related and not foreign:
                    negatives.append(scores[column])
            first = row * len(texts)
            total += math.log(sum(math.exp(score - scores[first]) for score in [scores[first], *negatives]))
            total += (
                weight * kullback_leibler(texts, scores[first : first + len(texts)])
                if prepared.rule.distil
                else 0.0
            )
    return total / len(candidates) / len(dims)


def kullback_leibler(texts, scores) -> float:
    known = [(one.score, score) for one, score in zip(texts, scores, strict=True) if one.score is not None]
    if texts[0].score is None or len(known) < 2:
        return 0.0
    teacher = [math.exp(a - max(a for a, _ in known)) for a, _ in known]
    student = [math.exp(b - max(b for _, b in known)) for _, b in known]
    return sum(
        a / sum(teacher) * math.log((a / sum(teacher)) / (b / sum(student)))
        for a, b in zip(teacher, student, strict=True)
    )


OPTIONS: list[dict[str, Any]] = [
    {},
    {"distillation_weight": 0.5, "matryoshka_dims": (8, 16)},
    {"kinds": {kind: {"in_batch_negatives": False} for kind in ("retrieval", "sts", "classification")}},
    {"label_target": "text", "kinds": {"classification": {"in_batch_negatives": False}}},
    {"label_target": "label", "kinds": {"classification": {"in_batch_negatives": True}}},
    {"kinds": {"sts": {"num_negatives": 1}, "retrieval": {"batch_size": 4}}, "text_shuffle": 1.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_loss_of_every_kind_is_the_formula_written_out(
    tiny_model: Path, rows: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    objective = make_objective(make_job(tmp_path, tiny_model, rows, optimizer={"steps": 24}, **options))
    planned = {}
    for step in range(24):
        chosen, _ = objective._prepare.__self__._plan[step]
        planned.setdefault((chosen, step % 2), step)  # label tasks change their target by turns
    assert len(planned) == 6
    distilled = 0
    for step in planned.values():
        prepared = objective._prepare(step)
        distilled += prepared.rule.distil
        [*batches] = plan_micro_batches(prepared.prompts, 10**6, share_prefixes=False)
        with torch.no_grad():
            loss, sums = objective.loss(step, ALONE)
            vectors = objective.embedder.embed_groups(batches[0].groups)
        vectors = vectors[torch.argsort(torch.tensor(batches[0].positions))]
        dims = [*options.get("matryoshka_dims", ()), objective.embedder.dimension]
        weight = options.get("distillation_weight", 1.0)
        expected = written_out(prepared, vectors, dims=dims, weight=weight)
        assert math.isclose(loss.item(), expected, rel_tol=2e-4), prepared.rule
        assert ("distillation" in sums) == prepared.rule.distil
        assert sums["tokens"] == sums["padded_tokens"] > 0
    assert distilled == 2


def test_a_teacher_that_agrees_teaches_nothing_and_missing_scores_are_left_out() -> None:
    scores = torch.tensor([[1.0, 0.5, -1.0, 3.0]] * 3, requires_grad=True)
    nan = math.nan
    assert distillation(scores, scores.detach() + 7.0).abs() < 1e-6
    assert distillation(scores, torch.tensor([[1.0, nan, nan, nan], [nan, 1.0, 2.0, 3.0], [nan] * 4])) == 0.0
    teacher = torch.tensor([[2.0, nan, 0.0, nan]] * 3)
    loss = distillation(scores, teacher)
    assert torch.isclose(loss, distillation(scores[:, [0, 2]], teacher[:, [0, 2]]))
    loss.backward()
    assert scores.grad is not None and scores.grad.isfinite().all()
    assert (scores.grad[:, [1, 3]] == 0).all()


def test_micro_batches_hold_every_prompt_once_within_the_budget() -> None:
    prompts = [Prompt(tuple(range(5)) if number % 3 else (), [1] * (number % 7 + 1)) for number in range(30)]
    for share in (True, False):
        batches = plan_micro_batches(prompts, 20, share_prefixes=share)
        assert sorted(position for batch in batches for position in batch.positions) == list(range(30))
        assert all(batch.num_tokens <= 20 for batch in batches)
        for batch in batches:
            found = [(tuple(group.prefix), row) for group in batch.groups for row in group.rows]
            assert found == [
                (prompts[position].prefix, prompts[position].row) for position in batch.positions
            ]
            if not share:
                assert all(len(group.rows) == 1 for group in batch.groups if group.prefix)
    [one] = plan_micro_batches(prompts, 10**6, share_prefixes=True)
    assert one.num_tokens == sum(len(prompt.row) for prompt in prompts) + 5


def test_a_prompt_longer_than_the_budget_is_a_micro_batch_of_its_own() -> None:
    batches = plan_micro_batches([Prompt((), [1] * 50), Prompt((), [1])], 10, share_prefixes=True)
    assert [batch.positions for batch in batches] == [(0,), (1,)]


def test_passes_that_only_keep_step_belong_to_no_prompt() -> None:
    batches = plan_micro_batches([Prompt((1, 2), [3] * 9), Prompt((1,), [4])], 10, share_prefixes=True)
    padded = repeat_shortest(batches, 4)
    assert padded[:2] == batches
    assert [(batch.positions, batch.num_tokens) for batch in padded[2:]] == [((), 2)] * 2


def test_sharing_is_refused_where_examples_would_see_the_query(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    for sharing in ("per_group", "per_batch"):
        job = make_job(
            tmp_path, tiny_model, rows, settings={"attention": "bidirectional"},
            examples={"sharing": sharing, "group_size": 4},
        )  # fmt: skip
        with pytest.raises(TrainingError, match=f"{sharing} needs causal attention"):
            make_objective(job)


def test_more_dimensions_than_the_model_has_are_refused(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="asks for 64 dimensions, but the model has 32"):
        make_objective(make_job(tmp_path, tiny_model, rows, matryoshka_dims=(16, 64)))


@pytest.mark.parametrize("mode", ["in_batch", "fixed"])
def test_prompts_without_room_for_examples_are_refused(
    tiny_model: Path, rows: Path, tmp_path: Path, mode: str
) -> None:
    prompt = {"query_tokens": 128, "total_tokens": 128}
    with pytest.raises(TrainingError, match="leaves no room for examples"):
        make_objective(make_job(tmp_path, tiny_model, rows, prompt=prompt, examples={"mode": mode}))
    make_objective(make_job(tmp_path, tiny_model, rows, prompt=prompt, examples={"mode": "none"}))
