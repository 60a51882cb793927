from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file

from icl_embed.config import LaunchConfig, LoraConfig, OptimizerConfig, RerankConfig
from icl_embed.errors import TrainingError
from icl_embed.launch.launcher import launch
from icl_embed.model.lora import attach
from icl_embed.rerank.folder import start_from
from icl_embed.rerank.reranker import Reranker
from icl_embed.rerank.shape import Shape
from icl_embed.train.distributed import Place
from icl_embed.train.job import write_job
from icl_embed.train.reranker.__main__ import train
from icl_embed.train.reranker.batches import RerankerJob, draw_group, keep_ranking_sets
from icl_embed.train.reranker.objective import (
    RerankerObjective,
    contrastive_loss,
    distillation_loss,
    group_index,
)
from icl_embed.train.rows import Row, TrainingSet, read_training_sets
from tests.made_rows import made_set

HERE = Place(0, 1, torch.device("cpu"), torch.float32)
CONFIG = RerankConfig(
    start_layer=2,
    layer_step=1,
    compress_layers=(1,),
    compress_ratios_trained=(1, 2),
    num_negatives=3,
    max_tokens=64,
    batch_size=4,
    lora=LoraConfig(rank=8, alpha=16),
    optimizer=OptimizerConfig(steps=30, learning_rate=1e-2, warmup_steps=0),
)


def toy_set(num_rows: int = 8) -> TrainingSet:
    """Animals are right and colours are wrong: what a random model of this size can learn in seconds."""
    animals, colours = ("cat", "dog", "fish", "bird"), ("red", "blue", "green", "fire", "stone")
    rng = random.Random(0)
    rows = [
        Row(
            f"find {number}",
            f"the {rng.choice(animals)}",
            "",
            "",
            tuple(f"the {colour}" for colour in rng.sample(colours, 4)),
        )
        for number in range(num_rows)
    ]
    return made_set("toy", "retrieval", "Find it.", 1.0, rows)


def make_objective(
    reranker: Reranker,
    config: RerankConfig = CONFIG,
    *,
    training_set: TrainingSet | None = None,
    **changes: object,
) -> RerankerObjective:
    config = config.model_copy(update=changes)
    rows = [training_set or toy_set()]
    return RerankerObjective(reranker.model, reranker.pairs, rows, config, reranker.settings, seed=3)


def test_the_objective_learns_a_toy_set_at_every_head_and_width(
    make_reranker: Callable[..., Reranker],
) -> None:
    reranker = make_reranker(config=CONFIG)
    attach(reranker.model.decoder, CONFIG.lora, seed=0)
    reranker.model.train()
    objective = make_objective(reranker)
    trained = [one for one in objective.model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)  # at 1e-2 rounding alone decides where it ends
    for step in range(CONFIG.optimizer.steps):
        loss, _ = objective.loss(step, HERE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    reranker.model.eval()
    rows = toy_set().rows
    for ratio in (1, 2):
        for layer in (2, 3, 4):
            best = [
                reranker.rank(
                    row.query, [*row.negatives, row.positive], cutoff_layer=layer, compress_ratio=ratio
                )[0].passage
                for row in rows
            ]
            hits = sum(found == row.positive for found, row in zip(best, rows, strict=True))
            assert hits >= 7, f"layer {layer}, ratio {ratio}: {hits} of {len(rows)}"


def test_the_final_head_at_full_width_teaches_and_is_not_taught(
    make_reranker: Callable[..., Reranker],
) -> None:
    reranker = make_reranker(config=CONFIG)
    objective = make_objective(reranker, distillation_weight=1.0)
    plain = next(step for step in range(20) if objective.shape_of(step) == Shape(4))
    squeezed = next(step for step in range(20) if objective.shape_of(step) == Shape(4, 2, (1,)))
    scores_HQG = torch.randn(2, 3, 4, requires_grad=True)
    distillation_loss(scores_HQG, scores_HQG[-1]).backward()
    assert scores_HQG.grad is not None
    torch.testing.assert_close(scores_HQG.grad[1], torch.zeros(3, 4))
    assert scores_HQG.grad[0].abs().sum() > 0
    for step in (plain, squeezed):
        _, sums = objective.loss(step, HERE)
        assert sums["distillation_loss"] > 0
        assert sums["compress_ratio"] == objective.shape_of(step).compress_ratio


def test_gradients_reach_every_head_and_adapter_and_are_finite(
    make_reranker: Callable[..., Reranker],
) -> None:
    reranker = make_reranker(config=CONFIG)
    attach(reranker.model.decoder, CONFIG.lora, seed=0)
    reranker.model.train()
    objective = make_objective(reranker)
    for step in range(4):
        loss, _ = objective.loss(step, HERE)
        loss.backward()
    for name, parameter in objective.model.named_parameters():
        if "lora_B" in name or "heads" in name:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name
        elif "lora" not in name:
            assert not parameter.requires_grad, name


def test_the_losses_agree_with_their_definitions_on_groups_of_unequal_size() -> None:
    index, real = group_index([3, 1, 2])
    assert index.tolist() == [[0, 1, 2], [3, 3, 3], [4, 5, 5]]
    assert real.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    flat = torch.tensor([[0.3, -0.2, 0.9, 1.0, 0.1, 0.4], [0.0, 0.5, -0.5, 2.0, 0.7, 0.2]])
    scores = flat[:, index].masked_fill(~real, -1e4)
    cross, divergence = [], []
    for head in flat:
        for group in ([0, 1, 2], [3], [4, 5]):
            student, teacher = head[group].softmax(0), flat[1][group].softmax(0)
            cross.append(-student[0].log())
            divergence.append((teacher * (teacher / student).log()).sum())
    torch.testing.assert_close(contrastive_loss(scores), torch.stack(cross).mean())
    torch.testing.assert_close(distillation_loss(scores, scores[-1]), torch.stack(divergence).mean())


def test_two_ranks_together_compute_the_loss_of_one(make_reranker: Callable[..., Reranker]) -> None:
    objective = make_objective(make_reranker(config=CONFIG))
    for step in range(3):
        alone, sums = objective.loss(step, HERE)
        parts = [objective.loss(step, Place(rank, 2, HERE.device, HERE.dtype)) for rank in range(2)]
        torch.testing.assert_close(parts[0][0] + parts[1][0], alone)
        for name in ("queries", "contrastive_loss", "distillation_loss", "compress_ratio", "tokens"):
            assert sum(part[1][name] for part in parts) == pytest.approx(sums[name], rel=1e-4)


def test_recomputing_activations_changes_neither_loss_nor_gradient(
    make_reranker: Callable[..., Reranker],
) -> None:
    results = []
    for batch_tokens in (100_000, 100):
        reranker = make_reranker(config=CONFIG)
        loss, _ = make_objective(reranker, batch_tokens=batch_tokens).loss(1, HERE)
        loss.backward()
        results.append((loss, reranker.model.decoder.layers[0].mlp.up_proj.weight.grad))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_a_step_is_a_function_of_seed_and_number(make_reranker: Callable[..., Reranker]) -> None:
    first, second = (make_objective(make_reranker(config=CONFIG)) for _ in range(2))
    assert [first.loss(step, HERE)[0].item() for step in (5, 0)] == [
        second.loss(step, HERE)[0].item() for step in (5, 0)
    ]
    row = toy_set().rows[0]
    groups = [draw_group(row, [row], CONFIG, seed=1, step=step) for step in range(20)]
    assert len(set(groups)) > 1
    assert all(group.passages[0] == row.positive for group in groups)
    assert all(len(set(group.passages)) == 4 for group in groups)


def test_easy_negatives_are_other_queries_positives_and_never_the_querys_own() -> None:
    def row(query: str, positive: str) -> Row:
        return Row(query, positive, "", "", ("hard one", "hard two"))

    batch = [row("q", "p"), row("q", "also right"), row("r", "p"), row("s", "x"), row("t", "hard one")]
    config = CONFIG.model_copy(update={"num_negatives": 2, "num_easy_negatives": 5})
    group = draw_group(batch[0], batch, config, seed=0, step=0)
    assert group.passages[0] == "p"
    assert sorted(group.passages[1:]) == ["hard one", "hard two", "x"]


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    base = {"instruction": "i", "response": "", "label": None, "weight": 1.0}
    parquet.write_table(pa.Table.from_pylist([{**base, **row} for row in rows]), path)
    return path


def test_only_ranking_data_with_real_negatives_is_read(tmp_path: Path) -> None:
    def row(dataset: str, kind: str, number: int, negatives: list[str]) -> dict[str, object]:
        return {
            "dataset": dataset, "kind": kind, "query": f"q{number}", "positive": "yes",
            "negatives": negatives,
        }  # fmt: skip

    rows = [row("sts", "sts", number, ["no"]) for number in range(4)]
    rows += [row("small", "reranking", 0, ["no"])]
    rows += [row("good", "retrieval", number, ["no", "yes", " "]) for number in range(4)]
    rows += [row("good", "retrieval", 9, ["yes"])]
    mapped = read_training_sets(write_rows(tmp_path / "train.parquet", rows), tmp_path)
    [found] = keep_ranking_sets(mapped, batch_size=2)
    assert (found.name, len(found.rows)) == ("good", 4)
    assert draw_group(found.rows[0], found.rows, CONFIG, seed=0, step=0).passages == ("yes", "no")
    with pytest.raises(TrainingError, match="good \\(4 rows with a hard negative\\), small"):
        keep_ranking_sets(mapped, batch_size=5)
    with pytest.raises(TrainingError, match="there is none"):
        keep_ranking_sets(mapped[-1:], batch_size=2)


def write_toy_rows(path: Path) -> Path:
    """The toy set as ``train.parquet``."""
    rows = [
        {"dataset": "toy", "kind": "retrieval", "query": row.query, "positive": row.positive,
         "negatives": list(row.negatives)}
        for row in toy_set().rows
    ]  # fmt: skip
    return write_rows(path, rows)


def toy_job(folder: Path, model_dir: Path, *, steps: int, **changes: object) -> RerankerJob:
    """A job on the toy set in folders of its own."""
    config = CONFIG.model_copy(
        update={
            "optimizer": OptimizerConfig(steps=steps, save_every=2, warmup_steps=0, learning_rate=1e-2),
            "launch": LaunchConfig(device="cpu", threads=1),
            **changes,
        }
    )
    for name in ("work", "out"):
        (folder / name).mkdir(parents=True)
    return RerankerJob(
        fingerprint="f", seed=1, model_dir=model_dir, work_dir=folder / "work", dtype="float32",
        rows_path=write_toy_rows(folder / "train.parquet"), out_dir=folder / "out", rerank=config,
    )  # fmt: skip


def train_apart(job: RerankerJob) -> None:
    """In a process of its own: DeepSpeed starts only once in one."""
    path = write_job(job, job.work_dir / "job.json")
    launch("icl_embed.train.reranker", path, job.work_dir, job.rerank.launch, lambda _: None)


def test_heads_learn_at_a_rate_of_their_own(folders: Callable[[str], Path], tmp_path: Path) -> None:
    fresh, _, _ = start_from(folders("llama"), CONFIG, device=HERE.device, dtype=HERE.dtype)
    jobs = [toy_job(tmp_path / str(rate), folders("llama"), steps=1, head_rate=rate) for rate in (1.0, 5.0)]
    for job in jobs:
        train_apart(job)
    once, often = (load_file(job.out_dir / "heads.safetensors") for job in jobs)
    for layer, start in fresh.heads.by_layer.items():
        moved = once[f"layer_{layer}"] - start
        assert moved.abs().max() > 0
        # the first step of Adam moves every weight by the learning rate, whatever the gradient
        torch.testing.assert_close(often[f"layer_{layer}"] - start, 5 * moved, rtol=1e-3, atol=1e-6)
    body = [load_file(job.out_dir / "model.safetensors") for job in jobs]
    assert all(torch.equal(body[0][name], body[1][name]) for name in body[0])


@pytest.mark.parametrize("tuning", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_a_job_trains_through_deepspeed_and_leaves_a_loadable_reranker(
    folders: Callable[[str], Path], tmp_path: Path, tuning: str
) -> None:
    job = toy_job(tmp_path / "job", folders("llama"), steps=3, tuning=tuning)
    if tuning == "lora":
        assert train(job)
    else:
        train_apart(job)
    trained = Reranker.load(job.out_dir, device="cpu", dtype="float32")
    assert trained.settings.head_layers == (2, 3, 4)
    weights = [trained.model.heads.by_layer[str(layer)] for layer in (2, 3, 4)]
    assert not torch.equal(weights[0], weights[1])
    before = load_file(folders("llama") / "model.safetensors")
    after = load_file(job.out_dir / "model.safetensors")
    changed = {name for name in after if not torch.equal(after[name], before[f"model.{name}"])}
    assert ("norm.weight" in changed) == ("embed_tokens.weight" in changed) == (tuning == "full")
    assert "layers.0.mlp.up_proj.weight" in changed
    lines = [json.loads(line) for line in (job.work_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert all(0 <= line[f"accuracy_layer_{layer}"] <= 1 for line in lines for layer in (2, 3, 4))
