"""Scores, quality and cost of every way to rerank, from one pass per width.

A pass shows the scores of all its exits, so nothing is scored twice: what a way ranks is read off the pass
that shows its exit, and what it costs is counted from the real lengths of the same passages. The same holds
for cascades, because a candidate's score does not depend on the others: who would go on can be told from the
scores of a pass that carried all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icl_embed.errors import ConfigError, EvaluationError
from icl_embed.evaluation.measurement import (
    Bootstrap,
    Interval,
    Measurement,
    average,
    average_difference,
    percentile_interval,
    point_and_replicates,
)
from icl_embed.evaluation.reranker.candidates import (
    METRICS,
    NDCG,
    Candidates,
    Metric,
    RankedQuery,
    first_stage_grades,
)
from icl_embed.evaluation.scores import EvaluationScores, read_measurements, read_scores
from icl_embed.rerank.flops import Costs, query_flops
from icl_embed.rerank.forward import Exits
from icl_embed.rerank.pairs import PairTokens
from icl_embed.rerank.reranker import Reranker
from icl_embed.rerank.shape import Shape
from icl_embed.rerank.timed import RerankerPool, timed
from icl_embed.rerank.ways import (
    Cascade,
    Outcome,
    Way,
    exits_of,
    full_way,
    name_of,
    passes_of,
    record_way,
    shape_of,
    with_pass_of,
)


def relative_loss(pairs: Sequence[tuple[Measurement, Measurement]], how: Bootstrap) -> Interval:
    """1 - second / first of the averages over data sets, queries paired; 0 where the first scores nothing.

    Parameters
        pairs: (full, cheaper) per data set.
    """
    (full, full_drawn), (cheap, cheap_drawn) = (
        point_and_replicates(sides, how) for sides in zip(*pairs, strict=True)
    )
    # A resample in which full depth finds nothing defines no share; such replicates are left out.
    shares = 1.0 - np.divide(
        cheap_drawn, full_drawn, out=np.full(len(full_drawn), np.nan), where=full_drawn > 0
    )
    if full <= 0:
        return Interval(0.0, 0.0, 0.0)
    return percentile_interval(1.0 - cheap / full, shares, how.confidence)


Progress = Callable[[str, int, int], None]
"""Told the data set, how many queries are behind and how many there are."""


@dataclass(frozen=True)
class ScoredQuery:
    """A query's candidates with their scores at every exit of every pass.

    Attributes
        ran: scores and seconds of the cascades that were run by themselves.
    """

    query: RankedQuery
    tokens: Sequence[PairTokens]
    exits: Mapping[Shape, Exits]
    ran: dict[Cascade, tuple[NDArray[np.float64], float]] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoredSet:
    """The queries of one data set, scored."""

    candidates: Candidates
    queries: tuple[ScoredQuery, ...]

    def measurement(self, values: Sequence[float]) -> Measurement:
        """Per-query values as a measurement, for intervals and paired comparisons."""
        ids = tuple(scored.query.query_id for scored in self.queries)
        return Measurement(self.candidates.dataset, "mean", ids, tuple(values))

    def first_stage(self, metric: str = NDCG) -> Measurement:
        """The order in which the candidates came."""
        measure = METRICS[metric]
        return self.measurement(
            [
                measure(one.query.relevance, range(len(one.query.passages), 0, -1), one.query.judged)
                for one in self.queries
            ]
        )


@dataclass
class Grid:
    """Every way on every data set; quality and cost are worked out when asked for, and kept.

    Attributes
        exits: each exit with the pass that shows it.
    """

    sets: Sequence[ScoredSet]
    exits: Mapping[Shape, Shape]
    costs: Costs
    _measured: dict[tuple[Way, str], list[Measurement]] = field(default_factory=dict)
    _flops: dict[Way, NDArray[np.int64]] = field(default_factory=dict)

    @property
    def num_queries(self) -> int:
        """Queries of all data sets."""
        return len(self.queries)

    def scores(self, scored: ScoredQuery, way: Way) -> NDArray[np.floating[Any]]:
        """Scores [N] of a query's candidates; of a cascade those that order all of them."""
        if isinstance(way, Cascade):
            return scored.ran[way][0] if way in scored.ran else self._outcome(scored, way).scores
        return self._at(scored, way, way.cutoff_layer)

    def measurements(self, way: Way, metric: str = NDCG) -> list[Measurement]:
        """One measurement per data set."""
        if (way, metric) not in self._measured:
            measure = METRICS[metric]
            self._measured[way, metric] = [
                one.measurement(
                    [
                        measure(scored.query.relevance, self.scores(scored, way), scored.query.judged)
                        for scored in one.queries
                    ]
                )
                for one in self.sets
            ]
        return self._measured[way, metric]

    def quality(self, way: Way) -> float:
        """nDCG@10, averaged over data sets."""
        return float(np.mean([measured.point for measured in self.measurements(way)]))

    def flops(self, way: Way) -> NDArray[np.int64]:
        """Operations per query, over the queries of all data sets."""
        if way not in self._flops:
            self._flops[way] = np.array([self._query_flops(one, way) for one in self.queries])
        return self._flops[way]

    def flops_without_sharing(self, shape: Shape) -> NDArray[np.int64]:
        """The same when every candidate goes through the model with its own copy of the query."""
        return np.array(
            [query_flops(self.costs, one.tokens, shape, share_queries=False) for one in self.queries]
        )

    def seconds(self, way: Way) -> NDArray[np.float64]:
        """Seconds per query: of the run, or until a pass had the scores of this exit.

        Raises
            ConfigError: a cascade that was not run by itself.
        """
        if isinstance(way, Cascade):
            if not all(way in one.ran for one in self.queries):
                raise ConfigError(f"{name_of(way)}: a cascade's seconds are known once it was run")
            return np.array([one.ran[way][1] for one in self.queries])
        shown = [one.exits[self.exits[way]] for one in self.queries]
        return np.array([exits.seconds[exits.layers.index(way.cutoff_layer)] for exits in shown])

    def lengths(self) -> dict[str, dict[str, float]]:
        """Tokens of queries, passages and whole pairs: mean and quantiles over all pairs."""
        pairs = [pair for one in self.queries for pair in one.tokens]
        parts = {
            "query": [len(pair.query) for pair in pairs],
            "passage": [len(pair.passage) for pair in pairs],
            "pair": [len(pair) for pair in pairs],
        }
        return {name: _summary(lengths) for name, lengths in parts.items()}

    def _at(self, scored: ScoredQuery, way: Way, layer: int) -> NDArray[np.float32]:
        exits = scored.exits[self.exits[shape_of(way)]]
        found: NDArray[np.float32] = exits.scores[exits.layers.index(layer)]
        return found

    def _outcome(self, scored: ScoredQuery, cascade: Cascade) -> Outcome:
        def scores_of(layer: int, candidates: Sequence[int]) -> NDArray[np.float32]:
            return self._at(scored, cascade, layer)[list(candidates)]

        [outcome] = cascade.outcomes(scores_of, [len(scored.tokens)])
        return outcome

    def _query_flops(self, scored: ScoredQuery, way: Way) -> int:
        reached = self._outcome(scored, way).reached if isinstance(way, Cascade) else None
        return query_flops(self.costs, scored.tokens, way, reached=reached)

    @property
    def queries(self) -> list[ScoredQuery]:
        """Those of all data sets."""
        return [scored for one in self.sets for scored in one.queries]


def score_grid(
    reranker: Reranker | RerankerPool,
    inputs: Sequence[Candidates],
    passes: Sequence[Shape],
    *,
    batch_tokens: int,
    progress: Progress | None = None,
) -> Grid:
    """Score every candidate in every pass.

    Raises
        DataError: an empty query.
        ModelError: a score is not finite.
    """
    tell = progress or (lambda *_: None)
    asked = [(given, query) for given in inputs for query in given.queries]
    scored: dict[int, ScoredQuery] = {}
    behind = Counter[str]()
    tell(inputs[0].dataset, 0, len(inputs[0].queries))
    pairs = (query.pairs for _, query in asked)
    for number, found in timed(reranker, pairs, passes, batch_tokens=batch_tokens):
        given, query = asked[number]
        scored[number] = ScoredQuery(query, found.tokens, found.exits)
        behind[given.dataset] += 1
        tell(given.dataset, behind[given.dataset], len(given.queries))
    in_order = (scored[number] for number in range(len(asked)))
    sets = [ScoredSet(given, tuple(islice(in_order, len(given.queries)))) for given in inputs]
    return Grid(sets, exits_of(reranker.settings, passes), reranker.costs)


def time_cascade(
    reranker: Reranker | RerankerPool,
    grid: Grid,
    cascade: Cascade,
    *,
    batch_tokens: int,
    progress: Progress | None = None,
) -> None:
    """Run a cascade by itself on every query: its scores and seconds then are those of the run."""
    tell = progress or (lambda *_: None)
    asked = (one.query.pairs for one in grid.queries)
    results = timed(reranker, asked, [cascade], batch_tokens=batch_tokens)
    for done, (number, scores) in enumerate(results, start=1):
        grid.queries[number].ran.update(scores.cascades)
        tell(name_of(cascade), done, grid.num_queries)


def _summary(lengths: Sequence[int]) -> dict[str, float]:
    values = np.asarray(lengths)
    quantiles = {f"p{share}": float(np.percentile(values, share)) for share in (5, 25, 50, 75, 95)}
    return {"mean": round(float(values.mean()), 2), **quantiles, "max": float(values.max())}


def bm25_measurements(
    evaluations: Sequence[Path], sets: Sequence[ScoredSet]
) -> dict[str, Mapping[str, Measurement]]:
    """Every metric of BM25 on each data set that it was evaluated on.

    Raises
        EvaluationError: it was not asked a query that is reranked.
    """
    wanted = {one.candidates.dataset: one for one in sets}
    found = {}
    for folder in evaluations:
        scores = read_scores(folder)
        if scores.card in wanted and scores.results:  # none: it had no word to go by
            found[scores.card] = _measured(folder, scores, wanted[scores.card])
    return found


def _measured(folder: Path, scores: EvaluationScores, scored: ScoredSet) -> Mapping[str, Measurement]:
    asked = {query_id for one in read_measurements(folder, scores).values() for query_id in one.ids}
    queries = [one.query for one in scored.queries]
    missing = next((query.query_id for query in queries if query.query_id not in asked), None)
    if missing is not None:
        raise EvaluationError(
            f"{folder} was not asked the query {missing!r} of {scored.candidates.dataset}; evaluate BM25 on "
            "the same data set"
        )
    grades = first_stage_grades(folder)
    ranked = [(grades.get(query.query_id, ()), query.judged) for query in queries]  # none: no word in common
    return {
        name: scored.measurement([_value(metric, found, judged) for found, judged in ranked])
        for name, metric in METRICS.items()
    }


def _value(metric: Metric, grades: Sequence[int], judged: Sequence[int]) -> float:
    # Evaluations of earlier versions know the relevant passages that they found; BM25 may have found more.
    found = [grade for grade in grades if grade]
    return metric(grades, range(len(grades), 0, -1), max(judged, found, key=len))


FIRST_STAGE, FULL_DEPTH, LIGHTWEIGHT, BM25 = "first_stage", "full_depth", "lightweight", "bm25"


@dataclass(frozen=True)
class Systems:
    """The systems on all data sets.

    Attributes
        bm25: data set -> metric -> BM25 as a first stage of its own, where it was evaluated.
    """

    grid: Grid
    full: Shape
    lightweight: Way
    bm25: Mapping[str, Mapping[str, Measurement]]

    @property
    def ways(self) -> list[Way]:
        """Every exit and width, and the lightweight way."""
        return list(dict.fromkeys([*self.grid.exits, self.lightweight]))

    def of(self, number: int, metric: str) -> dict[str, Measurement]:
        """The systems on one data set."""
        scored = self.grid.sets[number]
        found = self.bm25.get(scored.candidates.dataset)
        return {
            **({BM25: found[metric]} if found else {}),
            FIRST_STAGE: scored.first_stage(metric),
            FULL_DEPTH: self.grid.measurements(self.full, metric)[number],
            LIGHTWEIGHT: self.grid.measurements(self.lightweight, metric)[number],
        }

    def everywhere(self, metric: str) -> dict[str, list[Measurement]]:
        """The systems that were measured on all data sets."""
        each = [self.of(number, metric) for number in range(len(self.grid.sets))]
        return {name: [one[name] for one in each] for name in each[0] if all(name in one for one in each)}

    def against_full(self, way: Way) -> list[tuple[Measurement, Measurement]]:
        """(full depth, a way) per data set."""
        return list(zip(self.grid.measurements(self.full), self.grid.measurements(way), strict=True))


def measure_systems(
    reranker: Reranker | RerankerPool,
    inputs: Sequence[Candidates],
    lightweight: Way,
    *,
    ratios: Sequence[int],
    batch_tokens: int,
    bm25: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Systems:
    """Score all candidates at every exit and width.

    Raises
        EvaluationError: an evaluation of BM25 is damaged, or of other queries.
        DataError, ModelError: as ``Reranker.score``.
    """
    settings = reranker.settings
    passes = with_pass_of(passes_of(settings, ratios), lightweight, settings)
    grid = score_grid(reranker, inputs, passes, batch_tokens=batch_tokens, progress=progress)
    if isinstance(lightweight, Cascade):  # its scores could be read off the passes, its seconds could not
        time_cascade(reranker, grid, lightweight, batch_tokens=batch_tokens, progress=progress)
    return Systems(grid, full_way(settings), lightweight, bm25_measurements(bm25, grid.sets))


def summarise(systems: Systems, how: Bootstrap) -> dict[str, Any]:
    """Quality of every system with intervals, and what the lightweight way saves and loses.

    Fractions throughout. ``loss`` is full depth minus lightweight, queries paired.
    """
    grid, full, chosen = systems.grid, systems.full, systems.lightweight
    pairs = systems.against_full(chosen)
    relative = relative_loss(pairs, how)
    spent, recomputing = (
        float(flops.sum()) for flops in (grid.flops(chosen), grid.flops_without_sharing(full))
    )
    everywhere = {metric: systems.everywhere(metric) for metric in METRICS}
    first = everywhere[NDCG][FIRST_STAGE]
    return {
        "datasets": [_dataset_summary(systems, number, how) for number in range(len(grid.sets))],
        "averages": {
            metric: {name: asdict(average(measured, how)) for name, measured in found.items()}
            for metric, found in everywhere.items()
        },
        "gains": {
            name: asdict(average_difference(list(zip(everywhere[NDCG][name], first, strict=True)), how))
            for name in (FULL_DEPTH, LIGHTWEIGHT)
        },
        "metric": f"{NDCG} over all relevant passages that are known",
        "chosen": record_way(chosen).model_dump(mode="json") | {"name": name_of(chosen)},
        "full_depth": record_way(full).model_dump(mode="json") | {"name": name_of(full)},
        "flops_saved_fraction": 1.0 - spent / float(grid.flops(full).sum()),
        "flops_saved_against_recomputing_queries": 1.0 - spent / recomputing,
        "seconds_saved_fraction": 1.0 - float(grid.seconds(chosen).sum() / grid.seconds(full).sum()),
        "relative_loss": relative.mean,
        "relative_loss_interval": asdict(relative),
        "loss": asdict(average_difference(pairs, how)),
        "tokens": grid.lengths(),
    }


def curve_of(systems: Systems, how: Bootstrap) -> list[dict[str, Any]]:
    """One entry per way: quality averaged over data sets, cost averaged over queries."""
    grid, curve = systems.grid, []
    for way in systems.ways:
        interval = average(grid.measurements(way), how)
        seconds = grid.seconds(way)
        curve.append(
            {
                **record_way(way).model_dump(mode="json"),
                "name": name_of(way),
                "ndcg": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "loss": asdict(average_difference(systems.against_full(way), how)),
                "gflops_per_query": float(grid.flops(way).mean()) / 1e9,
                "seconds_per_query": float(seconds.mean()),
                "seconds_p95": float(np.percentile(seconds, 95)),
                "is_chosen": way == systems.lightweight,
            }
        )
    return curve


def _dataset_summary(systems: Systems, number: int, how: Bootstrap) -> dict[str, Any]:
    scored = systems.grid.sets[number]
    candidates = scored.candidates
    found = {metric: systems.of(number, metric) for metric in METRICS}
    return {
        "dataset": candidates.dataset,
        "trained_on": candidates.trained_on,
        "num_queries": len(scored.queries),
        "candidates_mean": float(np.mean([len(query.passages) for query in candidates.queries])),
        "reachable": candidates.reachable,
        **{name: asdict(measured.interval(how)) for name, measured in found[NDCG].items()},
        "other_metrics": {
            metric: {name: measured.point for name, measured in measurements.items()}
            for metric, measurements in found.items()
            if metric != NDCG
        },
    }
