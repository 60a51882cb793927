"""The gradient of one step, on one rank here or on several under torchrun: the same code for both.

``python -m torch.distributed.run … -m tests.icl_embed.train.gradients folder`` does every job of a folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from icl_embed.config import LaunchConfig
from icl_embed.train.distributed import Place, enter
from icl_embed.train.embedder.__main__ import load_teacher
from icl_embed.train.embedder.model import load_for_training
from icl_embed.train.embedder.objective import EmbedderObjective
from icl_embed.train.embedder.prepare import StepBuilder
from icl_embed.train.engine import Engine
from icl_embed.train.job import EmbedderJob, read_job
from icl_embed.train.loop import LossInParts, train_step
from icl_embed.train.rows import read_training_sets

ALONE = Place(0, 1, torch.device("cpu"), torch.float32)


def make_objective(job: EmbedderJob, place: Place = ALONE) -> EmbedderObjective:
    """The objective of a job, with adapters that already do something."""
    embedder = load_for_training(job, place).embedder
    builder = StepBuilder(
        embedder.prompts,
        place.first_then_all(lambda: read_training_sets(job.rows_path, job.work_dir)),
        job.train,
        seed=job.seed,
        mine=(place.rank, place.world_size),
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in embedder.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return EmbedderObjective(embedder, builder.build, job.train, load_teacher(job, place))


def gradients(
    objective: EmbedderObjective, *, step: int = 0, place: Place = ALONE
) -> tuple[float, dict[str, Tensor]]:
    """The global loss, and its gradient for every trained weight, summed over ranks."""
    trained = {
        name: parameter for name, parameter in objective.model.named_parameters() if parameter.requires_grad
    }
    torch.manual_seed(100 + place.rank)
    loss, _ = objective.loss(step, place)
    if isinstance(loss, LossInParts):
        for part in loss.parts:
            part().backward()
        loss = loss.value
    else:
        loss.backward()
    total = place.sum(loss.detach().clone()).item()
    found = {name: place.sum(parameter.grad.clone()) for name, parameter in trained.items()}
    for parameter in trained.values():
        parameter.grad = None
    return total, found


def main(folder: Path) -> None:
    with enter(LaunchConfig(device="cpu", threads=1), dtype="float32") as place:
        for path in sorted(folder.glob("*.json")):
            measure(path, place)


def measure(path: Path, place: Place) -> None:
    """Write a job's gradient, and what the engine makes of the same step."""
    job = read_job(path, EmbedderJob)
    objective = make_objective(job if job.train.optimizer.zero_stage < 3 else _whole(job), place)
    loss, found = gradients(objective, place=place)
    if job.train.optimizer.zero_stage == 3:  # spread over the ranks, a model runs in its engine alone
        objective = make_objective(job, place)
    torch.manual_seed(100 + place.rank)
    engine = Engine(objective.model, job.train.optimizer, place, objective.rates)
    report = train_step(objective, engine, 0, 1e-3, place)
    if place.is_first:
        save_file(found, path.with_suffix(".safetensors"))
        figures = {"loss": loss, "engine_loss": report.loss, "engine_norm": report.grad_norm}
        path.with_suffix(".report").write_text(json.dumps(figures))


def _whole(job: EmbedderJob) -> EmbedderJob:
    optimizer = job.train.optimizer.model_copy(update={"zero_stage": 0})
    return job.model_copy(update={"train": job.train.model_copy(update={"optimizer": optimizer})})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
