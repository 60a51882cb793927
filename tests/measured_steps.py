"""One real training step, and what it took: tokens, operations, bytes that were kept for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from icl_embed.train.distributed import Place
from icl_embed.train.embedder import model as embedder_model
from icl_embed.train.embedder.model import load_for_training
from icl_embed.train.embedder.objective import EmbedderObjective
from icl_embed.train.embedder.prepare import StepBuilder
from icl_embed.train.job import EmbedderJob
from icl_embed.train.loop import LossInParts
from icl_embed.train.rows import read_training_sets

HERE = Place(0, 1, torch.device("cpu"), torch.float32)


@dataclass(frozen=True)
class MeasuredStep:
    """What a step took."""

    tokens: float
    flops: float
    kept_bytes: float


@contextmanager
def plain_products() -> Iterator[None]:
    """Torch's own products: its counter has no entry for oneDNN's."""
    before = embedder_model.speed_up_frozen
    embedder_model.speed_up_frozen = lambda _model: None
    try:
        yield
    finally:
        embedder_model.speed_up_frozen = before


def opened(job: EmbedderJob) -> tuple[EmbedderObjective, StepBuilder]:
    """The objective of a job, as its first rank has it."""
    job.work_dir.mkdir(parents=True, exist_ok=True)
    training_sets = read_training_sets(job.rows_path, job.work_dir)
    embedder = load_for_training(job, HERE).embedder
    builder = StepBuilder(embedder.prompts, training_sets, job.train, seed=job.seed)
    return EmbedderObjective(embedder, builder.build, job.train), builder


def backward(loss: Tensor | LossInParts) -> None:
    """As the training loop does it."""
    if isinstance(loss, LossInParts):
        for part in loss.parts:
            part().backward()
    else:
        loss.backward()


def measure(job: EmbedderJob, step: int) -> MeasuredStep:
    """Run one step."""
    with plain_products():
        objective, _ = opened(job)
    sums: dict[str, Any] = {}

    def run() -> None:
        loss, found = objective.loss(step, HERE)
        sums.update(found)
        backward(loss)

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    kept = kept_bytes(objective, lambda: objective.loss(step, HERE)[0])
    return MeasuredStep(sums["tokens"], counter.get_total_flops(), kept)


def kept_bytes(objective: EmbedderObjective, forward: Callable[[], Tensor | LossInParts]) -> float:
    """Of distinct tensors that a graph keeps, weights aside; of a loss in parts its first, largest part."""
    weights = {weight.untyped_storage().data_ptr() for weight in objective.model.parameters()}
    kept: dict[int, int] = {}
    held = []  # alive, or another tensor would take its address

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor.untyped_storage().nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
        if isinstance(loss, LossInParts):
            kept.clear()
            held.append(loss.parts[0]())
    return float(sum(kept.values()))
