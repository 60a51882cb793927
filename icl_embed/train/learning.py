"""Whether a training run learns anything, as far as its losses can tell: said once, in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

logger = logging.getLogger(__name__)

IDLE_LOSS = 1e-4  # nothing is left to learn from a step below it
IDLE_GRADIENT = 1e-8
IDLE_STEPS = 10  # in a row
CHANCE = 0.01  # of the loss of a model that tells no passages apart
CHANCE_STEPS = 50  # in a row


class LearningWatch:
    """Looks at every step's figures and warns once when many in a row changed nothing."""

    def __init__(self) -> None:
        self._idle = self._guessing = 0
        self._has_warned = False

    def see(self, line: Mapping[str, Any]) -> None:
        """The log line of the next step."""
        self._idle = self._idle + 1 if is_idle(line) else 0
        self._guessing = self._guessing + 1 if _is_guessing(line) else 0
        if self._has_warned:
            return
        if self._idle >= IDLE_STEPS:
            self._warn_of_idleness(line)
        elif self._guessing >= CHANCE_STEPS:
            logger.warning(
                "warning: for %d steps the loss has been that of guessing (%.4f): all vectors may "
                "have become equal. Lower train.optimizer.learning_rate, or look at the data sets",
                CHANCE_STEPS, line["loss"],
            )  # fmt: skip
        self._has_warned = self._idle >= IDLE_STEPS or self._guessing >= CHANCE_STEPS

    def _warn_of_idleness(self, line: Mapping[str, Any]) -> None:
        share = line.get("without_negative_per_query")
        logger.warning(
            "warning: nothing was learned in steps %d to %d: loss %.1e, gradient norm %.1e%s. Look at "
            "the data sets: too few labels or positives, or negatives that are too easy",
            line["step"] - IDLE_STEPS + 1, line["step"], line["loss"], line["grad_norm"],
            f", and {share:.0%} of the queries had no negative" if share else "",
        )  # fmt: skip


def is_idle(line: Mapping[str, Any]) -> bool:
    """Whether a step had nothing to teach."""
    return bool(line["loss"] < IDLE_LOSS or line["grad_norm"] < IDLE_GRADIENT)


def idle_steps(lines: Iterable[Mapping[str, Any]]) -> int:
    """How many steps of a log had nothing to teach."""
    return sum(map(is_idle, lines))


def _is_guessing(line: Mapping[str, Any]) -> bool:
    """Whether the loss is that of equal vectors; unknown where a teacher adds to it."""
    chance = line.get("chance_loss_per_query", 0.0)
    return bool(chance and "distillation" not in line and abs(line["loss"] / chance - 1) < CHANCE)
