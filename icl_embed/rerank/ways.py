"""The ways to run one reranker: every exit at every width, and cascades that carry only the promising on.

Nothing is computed twice: the states of those that go on are packed anew and continue with the next layer. A
cascade is a pure function of scores, so what it would rank and keep can also be read off one pass that shows
all exits (``Cascade.outcomes``), without running it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icl_embed.config import Count, Section
from icl_embed.errors import ConfigError, ModelError
from icl_embed.model.batching import plan_batches
from icl_embed.rerank.decoder import QueryStates, device_of
from icl_embed.rerank.folder import RerankerSettings
from icl_embed.rerank.model import Progress, RerankerModel
from icl_embed.rerank.pairs import PairTokens, pack_pairs, plan_pair_batches
from icl_embed.rerank.shape import Shape, choose_shape

Stage = tuple[int, int | float]


@dataclass(frozen=True)
class Cascade:
    """Where candidates are sifted, and the shape of the pass that the last ones complete.

    Attributes
        stages: (layer, keep), ascending: at the head of that layer only the best go on. ``keep`` is how many
            (an int), or which share of those that are left (a float up to 1.0), rounded up.
        shape: its cutoff is where those kept by every stage get their scores.
    """

    stages: tuple[Stage, ...]
    shape: Shape

    def __post_init__(self) -> None:
        """Raises ConfigError for stages out of order, at or after the cutoff, or that keep nothing."""
        layers = [layer for layer, _ in self.stages]
        if not layers or layers != sorted(set(layers)) or layers[-1] >= self.shape.cutoff_layer:
            raise ConfigError(
                f"the stages of a cascade are at layers {layers}; expected at least one, ascending, before "
                f"the cutoff at layer {self.shape.cutoff_layer}"
            )
        for layer, keep in self.stages:
            is_count = isinstance(keep, int) and not isinstance(keep, bool)
            if not (keep >= 1 if is_count else isinstance(keep, float) and 0.0 < keep <= 1.0):
                raise ConfigError(
                    f"the stage at layer {layer} keeps {keep!r}; expected a count of at least 1, or a share "
                    "above 0.0 and up to 1.0"
                )

    @property
    def layers(self) -> tuple[int, ...]:
        """Every layer at which scores are read."""
        return (*(layer for layer, _ in self.stages), self.shape.cutoff_layer)

    def refuse_other_heads(self, heads: Sequence[int]) -> None:
        """Raise ConfigError if a layer has no score head."""
        missing = [layer for layer in self.layers if layer not in heads]
        if missing:
            raise ConfigError(
                f"the cascade reads layers {missing}, but score heads are at {list(heads)}; choose among them"
            )

    def outcomes(
        self, scores_of: Callable[[int, Sequence[int]], ArrayLike], sizes: Sequence[int]
    ) -> list[Outcome]:
        """Sift the candidates of several queries, those of each query apart.

        Parameters
            scores_of: given a layer and the candidates that came so far, ascending, their scores there.
            sizes: how many candidates each query has; they are numbered through all queries.

        Raises
            ModelError: a score is not finite.
        """
        sieves = [
            _Sieve(range(stop - size, stop))
            for stop, size in zip(itertools.accumulate(sizes), sizes, strict=True)
        ]
        for number, layer in enumerate(self.layers):
            keep = self.stages[number][1] if number < len(self.stages) else None
            left = [candidate for sieve in sieves for candidate in sieve.left]
            scores = np.asarray(scores_of(layer, left), dtype=np.float64)
            _refuse_not_finite(scores, layer, left)
            for sieve in sieves:
                mine, scores = np.split(scores, [len(sieve.left)])
                sieve.take(mine, keep)
        return [sieve.outcome(self.layers) for sieve in sieves]


@dataclass(frozen=True)
class Outcome:
    """What a cascade made of the candidates of one query.

    Attributes
        layers: where scores were read.
        reached: for each layer the candidates that came so far, ascending.
        scores: [N] float64 for ranking: those of the cutoff for the candidates that came there; all others
            lie below, in the order of the layers they reached and then of their scores there.
    """

    layers: tuple[int, ...]
    reached: tuple[tuple[int, ...], ...]
    scores: NDArray[np.float64]


class _Sieve:
    """The candidates of one query: those that are left, and what was seen of all of them."""

    def __init__(self, candidates: range) -> None:
        self._first = candidates.start
        self.left = list(candidates)
        self._reached: list[tuple[int, ...]] = []
        self._found: list[NDArray[np.float64]] = []

    def take(self, scores: NDArray[np.float64], keep: int | float | None) -> None:
        """Scores of those that are left, of whom only the best go on; None keeps all."""
        self._reached.append(tuple(candidate - self._first for candidate in self.left))
        self._found.append(scores)
        if keep is not None:
            best = np.argsort(-scores, kind="stable")[: _how_many(keep, len(self.left))]
            self.left = sorted(self.left[spot] for spot in best)

    def outcome(self, layers: tuple[int, ...]) -> Outcome:
        return Outcome(layers, tuple(self._reached), _one_scale(self._reached, self._found))


def _refuse_not_finite(scores: NDArray[np.float64], layer: int, candidates: Sequence[int]) -> None:
    broken = np.flatnonzero(~np.isfinite(scores))
    if len(broken):
        raise ModelError(
            f"the score of candidate {candidates[broken[0]]} at layer {layer} is not finite, as are "
            f"{len(broken)} of {len(scores)}; the model's weights or dtype are broken"
        )


def _how_many(keep: int | float, left: int) -> int:
    # rounded first: 0.07 of 100 is 7, not the 8 that 7.000000000000001 would be
    return min(left, keep if isinstance(keep, int) else math.ceil(round(keep * left, 9)))


def _one_scale(
    reached: Sequence[tuple[int, ...]], found: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Scores of different heads in one order: below those of the next head, each in steps of 1.

    Steps, because moving scores by their distance would round the closest of them to one.
    """
    scores = np.zeros(len(reached[0]))
    is_placed = np.zeros(len(scores), bool)
    floor = None
    for candidates, values in zip(reversed(reached), reversed(found), strict=True):
        spots = np.array(candidates, dtype=int)
        is_new = ~is_placed[spots]
        if is_new.any():
            mine = values[is_new]
            if floor is not None:
                from_worst = np.unique(mine, return_inverse=True)[1]
                mine = floor - 1.0 - (from_worst.max() - from_worst)
            scores[spots[is_new]] = mine
            floor = float(mine.min())
            is_placed[spots] = True
    return scores


def run_cascade(
    model: RerankerModel, searches: Sequence[Sequence[PairTokens]], cascade: Cascade, *, batch_tokens: int
) -> list[Outcome]:
    """Score the candidates of one query, or of several that fit one batch; equal scores keep their order.

    Parameters
        searches: the candidates of each query.
        batch_tokens: tokens that go through the model at once.
    """
    tokens = [pair for search in searches for pair in search]
    run = _Run(model, tokens, cascade.shape, batch_tokens)
    return cascade.outcomes(run.scores, [len(search) for search in searches])


class _Run:
    """Candidates on their way through the layers."""

    def __init__(
        self, model: RerankerModel, tokens: Sequence[PairTokens], shape: Shape, batch_tokens: int
    ) -> None:
        self._model, self._shape, self._batch_tokens = model, shape, batch_tokens
        batches = plan_pair_batches(tokens, batch_tokens)
        query = batches[0].query  # of all of them, unless there is one batch, which then holds its queries
        self._query = QueryStates(model.decoder, list(query)) if query else None
        self._members = [list(batch.numbers) for batch in batches]  # of each batch, as candidates
        self._progress = [self._begin([tokens[number] for number in batch]) for batch in self._members]

    def scores(self, layer: int, candidates: Sequence[int]) -> NDArray[np.float64]:
        """Scores of some candidates at a layer; the others stay behind for good."""
        if len(candidates) < sum(map(len, self._members)):
            self._keep(candidates)
        found: dict[int, float] = {}
        for number, members in enumerate(self._members):
            advanced = self._model.advance(self._progress[number], layer, self._shape, self._query)
            self._progress[number] = advanced
            found.update(zip(members, self._model.scores(advanced).tolist(), strict=True))
        return np.array([found[candidate] for candidate in candidates])

    def _begin(self, tokens: Sequence[PairTokens]) -> Progress:
        shared = self._query.states if self._query else None
        device = device_of(self._model.decoder)
        return self._model.begin(pack_pairs(tokens, shared=shared, device=device))

    def _keep(self, candidates: Sequence[int]) -> None:
        places = {
            candidate: (number, row)
            for number, members in enumerate(self._members)
            for row, candidate in enumerate(members)
        }
        chosen = [places[candidate] for candidate in candidates]
        rows = [self._progress[number].pairs.rows[row] for number, row in chosen]
        batches = plan_batches([row.stop - row.start for row in rows], self._batch_tokens)
        self._progress, before = [], self._progress
        for batch in batches:
            self._progress.append(self._model.kept(before, [chosen[spot] for spot in batch], self._query))
        self._members = [[candidates[spot] for spot in batch] for batch in batches]


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
