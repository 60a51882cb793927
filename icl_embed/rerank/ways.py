"""The ways to run one reranker: every exit at every width, and cascades over them; with names and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Literal

from icl_embed.config import Count, Section
from icl_embed.rerank.cascade import Cascade
from icl_embed.rerank.saved import RerankerSettings
from icl_embed.rerank.shape import Shape, choose_shape

Way = Shape | Cascade

KEPT_SHARES = (0.1, 0.2, 0.4, 0.6)  # of a cascade's candidates that go on
KEPT_AGAIN = (0.3, 0.6)  # of those left, at a second head
CASCADE_HEADS = 8  # of a model with many heads, cascades read so many, evenly spread


class WayRecord(Section):
    """A way to rerank as JSON; ``stages`` of a cascade are (layer, how many or which share goes on)."""

    layer: Count
    ratio: Literal[1, 2, 4, 8] = 1
    compress_layers: tuple[int, ...] = ()
    stages: tuple[tuple[int, int | float], ...] = ()


def shape_of(way: Way) -> Shape:
    """The pass that the last candidates complete."""
    return way.shape if isinstance(way, Cascade) else way


def full_way(settings: RerankerSettings) -> Shape:
    """Full depth, nothing compressed: what every saving and every loss is measured against."""
    return choose_shape(settings.head_layers)


def passes_of(settings: RerankerSettings, ratios: Iterable[int]) -> list[Shape]:
    """The whole passes that together show every exit: the plain one, and one per width.

    A model with several compression layers is also tried with each of them alone.
    """
    depth = settings.head_layers[-1]
    own = settings.compress_layers
    layer_sets = dict.fromkeys([own, *((layer,) for layer in own)]) if own else {}
    wide = [Shape(depth, ratio, layers) for ratio in sorted({*ratios} - {1}) for layers in layer_sets]
    return [Shape(depth), *wide]


def with_pass_of(passes: Sequence[Shape], way: Way, settings: RerankerSettings) -> list[Shape]:
    """The passes, and the one that shows ``way`` if none of them does."""
    shape = shape_of(way)
    if shape in exits_of(settings, passes):
        return list(passes)
    return [*passes, Shape(settings.head_layers[-1], shape.compress_ratio, shape.compress_layers)]


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


def cascades_over(exits: Iterable[Shape], heads: Sequence[int]) -> list[Cascade]:
    """Cascades to each exit, and to the last one also those that sift twice.

    One score at an early head and carry a share on; the others do so again at a later head.
    """
    step = -(-len(heads) // CASCADE_HEADS)
    read = sorted(heads[::-1][::step])  # counted from the last, which is always among them
    found = []
    for shape in exits:
        if shape.cutoff_layer not in read:
            continue
        before = [layer for layer in read if layer < shape.cutoff_layer]
        found += [Cascade(((layer, share),), shape) for layer in before for share in KEPT_SHARES]
        if shape.cutoff_layer == read[-1]:
            found += [
                Cascade(((first, share), (second, again)), shape)
                for first, second in combinations(before, 2)
                for share in KEPT_SHARES
                for again in KEPT_AGAIN
            ]
    return found


def name_of(way: Way) -> str:
    """A way as people read it: ``layer 18, ratio 2 from 6, 20 % of those at layer 6``."""
    shape = shape_of(way)
    name = f"layer {shape.cutoff_layer}"
    if shape.compress_ratio > 1:
        name += f", ratio {shape.compress_ratio} from {'+'.join(map(str, shape.compress_layers))}"
    for layer, keep in way.stages if isinstance(way, Cascade) else ():
        name += f", {keep if isinstance(keep, int) else f'{100 * keep:g} %'} kept at layer {layer}"
    return name


def record_way(way: Way) -> WayRecord:
    """A way as JSON."""
    shape = shape_of(way)
    return WayRecord(
        layer=shape.cutoff_layer,
        ratio=shape.compress_ratio,
        compress_layers=shape.compress_layers,
        stages=way.stages if isinstance(way, Cascade) else (),
    )


def way_of_record(record: WayRecord, settings: RerankerSettings) -> Way:
    """The way that JSON describes, checked against the reranker that shall run it.

    Raises
        ConfigError: this reranker cannot run it.
    """
    shape = choose_shape(
        settings.head_layers,
        cutoff_layer=record.layer,
        compress_ratio=record.ratio,
        compress_layers=record.compress_layers or None,
    )
    if not record.stages:
        return shape
    cascade = Cascade(record.stages, shape)
    cascade.refuse_other_heads(settings.head_layers)
    return cascade
