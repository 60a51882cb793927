"""The shape of a pass through the reranker, how deep and how compressed, and its probabilities.

A layer number counts decoder layers already run: the head at layer 8 reads the state after eight layers, and
compression entering layer 8 happens after eight layers and before the ninth, once the head there has read.

Fitted by Newton's method with the smoothed targets and the step halving of Lin, Lin and Weng (2007, "A note
on Platt's probabilistic outputs for support vector machines"): the targets keep the slope finite even where
the scores separate the labels perfectly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icl_embed.config import RerankConfig, Section
from icl_embed.errors import ConfigError

RATIOS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Shape:
    """Where a pass ends, and where and how much it compresses; build it with ``choose_shape``."""

    cutoff_layer: int
    compress_ratio: int = 1
    compress_layers: tuple[int, ...] = ()


class ShapeOptions(TypedDict, total=False):
    """How deep and how wide to run; none of them is full depth without compression.

    Attributes
        cutoff_layer: a layer with a head.
        compress_ratio: 1, 2, 4 or 8 passage tokens become one.
        compress_layers: where; the model's own layers below the cutoff if not given.
    """

    cutoff_layer: int | None
    compress_ratio: int | None
    compress_layers: Sequence[int] | None


def head_layers(start: int, step: int, num_layers: int) -> tuple[int, ...]:
    """The layers with a head: ``start``, every ``step`` further, and always the last.

    Raises
        ConfigError: the first head would be above the model.
    """
    if not 1 <= start <= num_layers or step < 1:
        raise ConfigError(
            f"rerank.start_layer is {start} (step {step}), but the model has {num_layers} layers; "
            f"choose a start between 1 and {num_layers}"
        )
    return (*range(start, num_layers, step), num_layers)


def choose_shape(
    heads: Sequence[int],
    *,
    cutoff_layer: int | None = None,
    compress_ratio: int | None = None,
    compress_layers: Sequence[int] | None = None,
    default_layers: Sequence[int] = (),
) -> Shape:
    """A shape that this model can run; full depth without compression when nothing is asked.

    Parameters
        heads: layers that have a score head, ascending.
        compress_layers: where to compress; None takes those of ``default_layers`` below the cutoff.

    Raises
        ConfigError: no head at the cutoff, an unknown ratio, or a compression that would never happen.
    """
    cutoff = heads[-1] if cutoff_layer is None else cutoff_layer
    if cutoff not in heads:
        raise ConfigError(f"no score head at layer {cutoff}; cutoff_layer must be one of {list(heads)}")
    ratio = 1 if compress_ratio is None else compress_ratio
    if ratio not in RATIOS:
        raise ConfigError(f"compress_ratio is {ratio}, expected one of {list(RATIOS)}")
    if compress_layers is None:
        layers = tuple(layer for layer in default_layers if layer < cutoff)
    else:
        layers = tuple(compress_layers)
        refuse_bad_layers(layers, below=cutoff)
    if ratio == 1:
        return Shape(cutoff)
    if not layers:
        raise ConfigError(
            f"compress_ratio is {ratio}, but no compression layer lies below cutoff_layer {cutoff} "
            f"(the model compresses entering {list(default_layers)}); use ratio 1 or a deeper cutoff"
        )
    return Shape(cutoff, ratio, layers)


def refuse_bad_layers(layers: Sequence[int], *, below: int) -> None:
    """Check where compression is to happen.

    Raises
        ConfigError: not ascending, or not between 0 and the cutoff.
    """
    if list(layers) != sorted(set(layers)) or any(not 0 <= layer < below for layer in layers):
        raise ConfigError(
            f"compress_layers are {list(layers)}; expected ascending layers from 0 to {below - 1}, because a "
            f"pass that ends at layer {below} never enters a later one"
        )


def lightweight_shape(config: RerankConfig, heads: Sequence[int]) -> Shape:
    """The cheap shape of a config: its cutoff, or the middle head at which its compression has acted.

    Raises
        ConfigError: the config asks for what the model cannot run.
    """
    cutoff = config.cutoff_layer
    if not cutoff:
        first = min(config.compress_layers, default=0) if config.compress_ratio > 1 else 0
        candidates = [layer for layer in heads if layer > first] or list(heads)
        cutoff = candidates[(len(candidates) - 1) // 2]
    return choose_shape(
        heads,
        cutoff_layer=cutoff,
        compress_ratio=config.compress_ratio,
        default_layers=config.compress_layers,
    )


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
