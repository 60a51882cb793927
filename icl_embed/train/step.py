"""One training step: fetch, forward, loss, backward and clip, update. Everything else hangs outside."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from icl_embed.errors import TrainingError
from icl_embed.train.engine import Engine
from icl_embed.train.place import Place


@dataclass(frozen=True)
class LossInParts:
    """A loss whose graph is too large to keep.

    Attributes
        value: the loss, without a graph.
        parts: each makes a scalar that is back-propagated before the next is made; the sum of their
            gradients is the gradient of the loss. All ranks have the same number.
    """

    value: Tensor
    parts: Sequence[Callable[[], Tensor]]


class Objective(Protocol):
    """What is trained: a model and a loss that depends on the step alone.

    Attributes
        rates: how many times the learning rate is for parameters whose names begin so.
    """

    model: torch.nn.Module
    rates: Mapping[str, float]

    def loss(self, step: int, place: Place) -> tuple[Tensor | LossInParts, dict[str, float]]:
        """This rank's share of the loss (the sum over ranks is the global loss) and sums for the log."""
        ...


@dataclass(frozen=True)
class StepReport:
    """What one step did, summed over ranks."""

    loss: float
    grad_norm: float
    sums: dict[str, float]


def train_step(objective: Objective, engine: Engine, step: int, rate: float, place: Place) -> StepReport:
    """Run one step on every rank.

    Raises
        TrainingError: the loss is not finite (nothing was updated), or the gradient is not.
    """
    loss, sums = objective.loss(step, place)
    value = loss.value if isinstance(loss, LossInParts) else loss
    names = sorted(sums)
    totals = torch.tensor([value.detach().item(), *(sums[name] for name in names)], dtype=torch.float64)
    global_loss, *values = place.sum(totals.to(place.device)).tolist()
    if not math.isfinite(global_loss):
        raise TrainingError(f"the loss of step {step} is {global_loss}; no weight was changed by this step")
    if isinstance(loss, LossInParts):
        for number, part in enumerate(loss.parts, start=1):
            engine.backward(part(), is_last=number == len(loss.parts))
    else:
        engine.backward(loss)
    grad_norm = engine.step(rate)
    if not math.isfinite(grad_norm):
        raise TrainingError(
            f"the gradient norm of step {step} is {grad_norm}; go back to the last checkpoint"
        )
    return StepReport(global_loss, grad_norm, dict(zip(names, values, strict=True)))
