"""The loop around a training step: schedule, resume, log, save, stop when asked."""

from __future__ import annotations

import faulthandler
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from icl_embed.config import OptimizerConfig
from icl_embed.errors import TrainingError
from icl_embed.model.memory import is_out_of_memory
from icl_embed.train.checkpoint import Checkpoints
from icl_embed.train.distributed import Place
from icl_embed.train.engine import Engine
from icl_embed.train.learning import LearningWatch
from icl_embed.train.metrics import METRICS_NAME, MetricsLog
from icl_embed.train.trackers import Watched


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Linear warm-up, then constant, linear to zero, or half a cosine to zero. Steps count from 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    span = max(1, config.steps - config.warmup_steps)
    left = 1.0 - (step - config.warmup_steps) / span
    if config.schedule == "linear":
        return config.learning_rate * left
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))


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


class DevMeasuring(Protocol):
    """Whoever measures between steps, and may end the training (``train.dev_watch``)."""

    @property
    def is_over(self) -> bool:
        """Whether another step would be in vain."""

    @property
    def carried(self) -> Mapping[str, Any]:
        """What a run that resumes here has to know, as JSON."""

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on where ``carried`` was."""

    def look(self, step: int) -> Mapping[str, Any] | None:
        """Measure after a step, if it is time; a line for the log. Every rank must call it."""

    def forget(self, resumable: Sequence[int]) -> None:
        """Drop what no run needs that resumes after one of these steps."""


@dataclass(frozen=True)
class StepReport:
    """What one step did, summed over ranks."""

    loss: float
    grad_norm: float
    sums: dict[str, float]


def train_step(objective: Objective, engine: Engine, step: int, rate: float, place: Place) -> StepReport:
    """Run one step on every rank.

    Raises
        TrainingError: the loss is not finite (nothing was updated), the gradient is not, or memory ran out.
    """
    try:
        return _step(objective, engine, step, rate, place)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"memory ran out in step {step + 1} on {place.device}: lower train.batch_tokens together with "
            "train.gradient_cache = true, set train.activation_checkpointing = true, or lower the batch size "
            f"(rerank.batch_size for a reranker); who else uses the device matters, too ({error})"
        ) from error


def _step(objective: Objective, engine: Engine, step: int, rate: float, place: Place) -> StepReport:
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


logger = logging.getLogger(__name__)

STOP_SECONDS = 90  # more than the launcher's own patience with a job that it stops


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended: complete after its last step, or where measuring said that it is over."""

    steps_done: int
    resumed_from: int
    is_complete: bool


def run_training(  # noqa: PLR0913 - the whole context of a run, passed once
    objective: Objective,
    *,
    optimizer: OptimizerConfig,
    work_dir: Path,
    seed: int,
    identity: Mapping[str, Any],
    place: Place,
    snapshot_every: int = 0,
    snapshot: Callable[[int], None] | None = None,
    watched: Callable[[int], Watched] | None = None,
    dev: DevMeasuring | None = None,
) -> TrainingResult:
    """Train to the last step, from the newest whole checkpoint in ``work_dir``.

    All randomness is a function of (seed, step, rank), so a run that was killed and resumed computes exactly
    what an uninterrupted one does. On SIGTERM the current step is finished and saved.

    Parameters
        watched: opens the trackers, given the steps that are done; the first rank has them.
        snapshot: called on every rank after every ``snapshot_every`` steps, but not after the last.
        dev: measures between steps; what it finds out enters no update.

    Raises
        TrainingError: a checkpoint of a different run, or a loss or gradient that is not finite.
    """
    engine = Engine(objective.model, optimizer, place, objective.rates)
    checkpoints = Checkpoints(work_dir / "checkpoints", identity, optimizer.keep_checkpoints)
    first, carried = checkpoints.restore(engine, place)
    if place.is_first and first:
        logger.info("resumed after step %d of %d", first, optimizer.steps)
    listeners = _Listeners.open(work_dir, first, watched) if place.is_first else _Listeners()
    dev = dev or NothingMeasured()
    dev.resume(carried)
    if first:
        listeners.hear(dev.look(first))  # a run that was told to stop left it to this one
    done = first
    with _stop_requests() as stop:
        while not (done == optimizer.steps or dev.is_over):
            started = time.perf_counter()
            torch.manual_seed(_step_seed(seed, done, place.rank))
            rate = learning_rate(optimizer, done)
            report = train_step(objective, engine, done, rate, place)
            done += 1
            listeners.hear_step(_line(done, report, rate, time.perf_counter() - started), optimizer.steps)
            stopping = bool(place.sum(torch.tensor([float(stop.asked)], device=place.device)).item())
            # before the checkpoint: a run that resumes after it would not come by here again
            if snapshot and snapshot_every and done % snapshot_every == 0 and done < optimizer.steps:
                snapshot(done)
            if not stopping or done == optimizer.steps:
                listeners.hear(dev.look(done))
            if stopping or done % optimizer.save_every == 0 or done == optimizer.steps or dev.is_over:
                checkpoints.save(engine, done, place, dev.carried)
                dev.forget(checkpoints.steps)
            if stopping:
                break
    is_complete = done == optimizer.steps or dev.is_over
    listeners.end(is_complete=is_complete)
    return TrainingResult(done, first, is_complete)


class NothingMeasured:
    """``DevMeasuring`` of a training that goes on to its last step, come what may."""

    is_over = False
    carried: Mapping[str, Any] = {}

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Nothing to go on with."""

    def look(self, step: int) -> None:
        """Nothing is measured."""

    def forget(self, resumable: Sequence[int]) -> None:
        """Nothing was kept."""


@dataclass
class _Listeners:
    """Who is told what a training does; on all ranks but the first nobody is."""

    log: MetricsLog | None = None
    trackers: Watched | None = None
    watch: LearningWatch = field(default_factory=LearningWatch)

    @classmethod
    def open(cls, work_dir: Path, first: int, watched: Callable[[int], Watched] | None) -> _Listeners:
        return cls(MetricsLog(work_dir / METRICS_NAME, first), watched(first) if watched else None)

    def hear(self, line: Mapping[str, Any] | None) -> None:
        if self.log and line:
            self.log.write(line)
            if self.trackers:
                self.trackers.step(line)

    def hear_step(self, line: Mapping[str, Any], steps: int) -> None:
        self.hear(line)
        if self.log:
            _announce(line, steps)
            self.watch.see(line)

    def end(self, *, is_complete: bool) -> None:
        if self.trackers:
            self.trackers.end(is_complete=is_complete)


def _step_seed(seed: int, step: int, rank: int) -> int:
    return hash((seed, step, rank)) & 0x7FFF_FFFF  # hashes of integers are the same in every process


def _line(step: int, report: StepReport, rate: float, seconds: float) -> dict[str, Any]:
    return {
        "step": step,
        "loss": report.loss,
        "grad_norm": report.grad_norm,
        "learning_rate": rate,
        "seconds": round(seconds, 4),
        **derive(report.sums, seconds),
    }


def derive(sums: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Readable rates from the sums an objective reports; whatever has no rate is passed on."""
    values = dict(sums)
    queries = values.pop("queries", 0.0)
    if "tokens" in values:
        tokens = values.pop("tokens")
        values["tokens_per_second"] = round(tokens / seconds, 1)
        values["useful_token_share"] = round(tokens / max(1.0, values.pop("padded_tokens")), 4)
    if queries:
        for name in list(values):
            if name.startswith("accuracy"):  # of the answer, or of each layer
                values[name] = round(values[name] / queries, 4)
            elif name in ("examples", "examples_dropped", "without_negative", "chance_loss", "imitation"):
                values[f"{name}_per_query"] = round(values.pop(name) / queries, 4)
    return values


def _announce(line: Mapping[str, Any], steps: int) -> None:
    logger.info(
        "step %d/%d  loss %.4f  lr %.2e  %.2f s", line["step"], steps, line["loss"], line["learning_rate"],
        line["seconds"],
    )  # fmt: skip


@dataclass
class _Stop:
    asked: bool = False


@contextmanager
def _stop_requests() -> Iterator[_Stop]:
    """Turn the first SIGTERM into a polite request; the second one ends the process at once."""
    stop = _Stop()

    def ask(_number: int, _frame: object) -> None:
        if stop.asked:
            sys.exit(143)
        stop.asked = True
        # A launcher that died cannot end a rank that waits for one that is gone.
        faulthandler.dump_traceback_later(STOP_SECONDS, exit=True)

    previous = signal.signal(signal.SIGTERM, ask)
    try:
        yield stop
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGTERM, previous)
