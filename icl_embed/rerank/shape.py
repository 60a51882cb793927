"""The shape of one pass through the reranker: how deep it goes and how much it compresses the passage.

A layer number counts decoder layers already run: the head at layer 8 reads the state after eight layers, and
compression entering layer 8 happens after eight layers and before the ninth, once the head there has read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from icl_embed.config import RerankConfig
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
