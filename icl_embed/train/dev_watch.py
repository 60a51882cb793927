"""What is decided by dev scores while training goes on: when to stop, and whose weights to publish.

A decision is a function of the scores so far. They travel with the checkpoints, so a run that was killed
decides again what it decided before; and the weights that may yet be published outlive it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import torch

from icl_embed.config import DevConfig
from icl_embed.train.distributed import Place

logger = logging.getLogger(__name__)

CARRIED = "dev"


class ShotScores(NamedTuple):
    """A metric without and with examples, from 0 to 1."""

    zero_shot: float
    few_shot: float


class DevScore(NamedTuple):
    """The averages over all data sets after a step."""

    step: int
    zero_shot: float
    few_shot: float


@dataclass(frozen=True)
class DevHistory:
    """All measurements of a run, in the order of their steps."""

    scores: tuple[DevScore, ...] = ()

    def after(self, score: DevScore) -> DevHistory:
        """With one more."""
        return DevHistory((*self.scores, score))

    def until(self, step: int) -> DevHistory:
        """As it was after a step."""
        return DevHistory(tuple(score for score in self.scores if score.step <= step))

    @property
    def best(self) -> DevScore | None:
        """The best few-shot average; of equals the first. None when nothing was measured."""
        return max(self.scores, key=lambda score: score.few_shot, default=None)  # max takes the first

    def has_lost_patience(self, patience: int) -> bool:
        """Whether the best is followed by ``patience`` measurements; 0 is endless patience."""
        after = [score for score in self.scores if self.best and score.step > self.best.step]
        return patience > 0 and len(after) >= patience


@dataclass(frozen=True)
class BestWeights:
    """Where the weights of the best measurement are kept.

    Attributes
        save: keeps the weights of a step; every rank calls it.
        keep_only: drops those of all other steps.
    """

    save: Callable[[int], None]
    keep_only: Callable[[Collection[int]], None]


class DevWatch:
    """Measures every few steps and after the last; see ``loop.DevMeasuring``."""

    def __init__(
        self,
        config: DevConfig,
        measure: Callable[[], Mapping[str, ShotScores]],
        *,
        steps: int,
        place: Place,
        best: BestWeights | None = None,
    ) -> None:
        """Nothing is measured yet.

        Parameters
            measure: scores of every data set, the same on every rank up to rounding; all ranks call it.
            steps: of the whole training.
            best: None where the last weights are published.
        """
        self._config = config
        self._measure = measure
        self._steps = steps
        self._place = place
        self._best = best
        self.history = DevHistory()

    @property
    def is_over(self) -> bool:
        """Whether nothing got better for too long."""
        return self.history.has_lost_patience(self._config.patience)

    @property
    def carried(self) -> Mapping[str, Any]:
        """The scores so far, for a checkpoint."""
        return {CARRIED: [list(score) for score in self.history.scores]}

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Take over the scores of a checkpoint."""
        self.history = DevHistory(tuple(DevScore(*score) for score in carried.get(CARRIED, ())))

    def look(self, step: int) -> Mapping[str, Any] | None:
        """Measure if it is time and was not done; a line for the log, None otherwise."""
        is_due = step % self._config.every == 0 or step == self._steps
        if not is_due or any(score.step == step for score in self.history.scores):
            return None
        started = time.perf_counter()
        found = self._measure()
        zero, few = (fmean(one[number] for one in found.values()) for number in (0, 1))
        # What the first rank found holds for all: a decision must not hang on the last bit of a sum.
        told = torch.tensor([zero, few], dtype=torch.float64, device=self._place.device)
        zero, few = self._place.sum(told if self._place.is_first else torch.zeros_like(told)).tolist()
        before = self.history.best
        self.history = self.history.after(DevScore(step, zero, few))
        if self._best and self.history.best != before:
            self._best.save(step)
        seconds = round(time.perf_counter() - started, 4)
        self._announce(step, zero, few, seconds)
        return {
            "step": step,
            "dev_zero_shot": zero,
            "dev_few_shot": few,
            "dev_seconds": seconds,
            **{f"dev_zero_shot/{name}": one.zero_shot for name, one in found.items()},
            **{f"dev_few_shot/{name}": one.few_shot for name, one in found.items()},
        }

    def forget(self, resumable: Sequence[int]) -> None:
        """Drop the weights that are best neither now nor at a step that a run may resume after."""
        if self._best and self._place.is_first:
            views = [self.history, *(self.history.until(step) for step in resumable)]
            self._best.keep_only({view.best.step for view in views if view.best})

    def _announce(self, step: int, zero: float, few: float, seconds: float) -> None:
        best = self.history.best
        logger.info(
            "dev after step %d: %s %.4f zero-shot, %.4f with %d examples (best: step %d)  %.2f s",
            step, self._config.metric, zero, few, self._config.shots, best.step if best else step, seconds,
        )  # fmt: skip
        if self.is_over and step < self._steps:
            logger.info("training ends: %d measurements without a better one", self._config.patience)
