"""Probabilities from scores: sigmoid(a · score + b), fitted per shape (Platt 1999).

Fitted by Newton's method with the smoothed targets and the step halving of Lin, Lin and Weng (2007, "A note
on Platt's probabilistic outputs for support vector machines"): the targets keep the slope finite even where
the scores separate the labels perfectly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icl_embed.config import Section
from icl_embed.errors import ConfigError
from icl_embed.rerank.shape import Shape

MAX_STEPS = 100
SMALLEST_GRADIENT = 1e-8  # of the mean loss
RIDGE = 1e-12  # keeps the Hessian invertible when all scores are equal
SMALLEST_STEP = 1e-10


class Calibration(Section):
    """The sigmoid of one shape; the default leaves the score as it is."""

    cutoff_layer: int
    compress_ratio: int = 1
    compress_layers: tuple[int, ...] = ()
    slope: float = 1.0
    offset: float = 0.0

    @property
    def shape(self) -> Shape:
        """The shape that it belongs to."""
        return Shape(self.cutoff_layer, self.compress_ratio, self.compress_layers)


def calibrate(shape: Shape, scores: ArrayLike, labels: ArrayLike) -> Calibration:
    """The calibration of a shape, fitted to its scores [N] and labels [N].

    Raises
        ConfigError: as ``fit_calibration``.
    """
    slope, offset = fit_calibration(scores, labels)
    return Calibration(
        cutoff_layer=shape.cutoff_layer,
        compress_ratio=shape.compress_ratio,
        compress_layers=shape.compress_layers,
        slope=slope,
        offset=offset,
    )


def calibration_of(calibrations: Sequence[Calibration], shape: Shape) -> tuple[float, float]:
    """(a, b) of a shape: (1, 0) if it was never calibrated."""
    for one in calibrations:
        if one.shape == shape:
            return one.slope, one.offset
    return 1.0, 0.0


def sigmoid(values: ArrayLike) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), without overflow."""
    logits = np.asarray(values, dtype=np.float64)
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)


def fit_calibration(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """(a, b) such that sigmoid(a · score + b) is the likeliest probability of label 1.

    Parameters
        scores: [N] finite.
        labels: [N] 1 where the passage serves the query, else 0; both must occur.

    Raises
        ConfigError: not such arrays.
    """
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    _refuse_bad(x, y)
    positives, negatives = y.sum(), len(y) - y.sum()
    target = np.where(y > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # On scores of spread 1 the surface is round, whatever the model's own scale is.
    middle, spread = float(x.mean()), float(x.std()) or 1.0
    z = (x - middle) / spread
    at = np.array([0.0, np.log((positives + 1) / (negatives + 1))])
    loss = _loss(z, target, at)
    for _ in range(MAX_STEPS):
        probability = sigmoid(at[0] * z + at[1])
        gradient = np.array([np.mean((probability - target) * z), np.mean(probability - target)])
        if np.abs(gradient).max() < SMALLEST_GRADIENT:
            break
        weight = probability * (1 - probability)
        mixed = np.mean(weight * z)
        hessian = np.array([[np.mean(weight * z * z), mixed], [mixed, np.mean(weight)]])
        direction = np.linalg.solve(hessian + RIDGE * np.eye(2), gradient)
        step = 1.0
        while step > SMALLEST_STEP and _loss(z, target, at - step * direction) > loss:
            step /= 2
        if step <= SMALLEST_STEP:
            break  # no descent left that floats can show
        at = at - step * direction
        loss = _loss(z, target, at)
    slope = float(at[0]) / spread
    return slope, float(at[1]) - slope * middle


def _loss(z: NDArray[np.float64], target: NDArray[np.float64], at: NDArray[np.float64]) -> float:
    """Mean cross-entropy: log(1 + exp(logit)) - target · logit."""
    logits = at[0] * z + at[1]
    return float(np.mean(np.logaddexp(0.0, logits) - target * logits))


def _refuse_bad(x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    if x.ndim != 1 or x.shape != y.shape:
        raise ConfigError(f"expected as many scores as labels, found shapes {x.shape} and {y.shape}")
    if not np.isfinite(x).all():
        raise ConfigError(f"{int((~np.isfinite(x)).sum())} of {len(x)} scores are not finite")
    if set(np.unique(y)) != {0.0, 1.0}:
        raise ConfigError(
            f"labels must be 0 and 1, and both must occur; found {[float(one) for one in np.unique(y)][:5]}"
        )
