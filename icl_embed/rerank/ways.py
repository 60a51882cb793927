"""The ways to run one reranker: every exit at every width, with names and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from icl_embed.config import Count, Section
from icl_embed.rerank.saved import RerankerSettings
from icl_embed.rerank.shape import Shape, choose_shape

Way = Shape


class WayRecord(Section):
    """A way to rerank as JSON."""

    layer: Count
    ratio: Literal[1, 2, 4, 8] = 1
    compress_layers: tuple[int, ...] = ()


def full_way(settings: RerankerSettings) -> Shape:
    """Full depth, nothing compressed: what every saving and every loss is measured against."""
    return choose_shape(settings.head_layers)


def passes_of(settings: RerankerSettings, ratios: Sequence[int]) -> list[Shape]:
    """The whole passes that together show every exit: the plain one, and one per width.

    A model with several compression layers is also tried with each of them alone.
    """
    depth = settings.head_layers[-1]
    own = settings.compress_layers
    layer_sets = dict.fromkeys([own, *((layer,) for layer in own)]) if own else {}
    wide = [Shape(depth, ratio, layers) for ratio in sorted({*ratios} - {1}) for layers in layer_sets]
    return [Shape(depth), *wide]


def exit_of(whole: Shape, layer: int) -> Shape:
    """The shape whose scores a pass shows when it goes by the head at ``layer``."""
    entered = tuple(one for one in whole.compress_layers if one < layer)
    return Shape(layer, whole.compress_ratio if entered else 1, entered)


def exits_of(settings: RerankerSettings, passes: Sequence[Shape]) -> dict[Shape, Shape]:
    """Every distinct exit of the passes, each with the first pass that shows it."""
    found: dict[Shape, Shape] = {}
    for whole in passes:
        for layer in settings.head_layers:
            found.setdefault(exit_of(whole, layer), whole)
    return found


def name_of(way: Way) -> str:
    """A way as people read it: ``layer 18, ratio 2 from 6``."""
    if way.compress_ratio == 1:
        return f"layer {way.cutoff_layer}"
    entered = "+".join(map(str, way.compress_layers))
    return f"layer {way.cutoff_layer}, ratio {way.compress_ratio} from {entered}"


def record_way(way: Way) -> WayRecord:
    """A way as JSON."""
    return WayRecord(layer=way.cutoff_layer, ratio=way.compress_ratio, compress_layers=way.compress_layers)


def way_of_record(record: WayRecord, settings: RerankerSettings) -> Way:
    """The way that JSON describes, checked against the reranker that shall run it.

    Raises
        ConfigError: this reranker cannot run it.
    """
    return choose_shape(
        settings.head_layers,
        cutoff_layer=record.layer,
        compress_ratio=record.ratio,
        compress_layers=record.compress_layers or None,
    )
