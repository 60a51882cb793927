"""The cheapest way to rerank that loses little on development queries, kept in ``choice.json``.

Ways are compared with full depth, query by query. The bound is on the mean loss, or, to be safe, on the upper
end of its bootstrap interval. Choosing the best of many on the same queries flatters the choice a little:
what it loses on unseen queries is for an evaluation to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from icl_embed.config import ONE_HERE, Count, EngineConfig, RerankConfig, Section
from icl_embed.errors import ConfigError, EvaluationError
from icl_embed.evaluation.measurement import (
    Bootstrap,
    Difference,
    Floats,
    Interval,
    paired_difference,
    percentile_interval,
)
from icl_embed.evaluation.reranker.candidates import NDCG, Candidates, read_candidates
from icl_embed.evaluation.reranker.measure import Grid, Progress, score_grid
from icl_embed.rerank.folder import RerankerSettings
from icl_embed.rerank.reranker import Reranker
from icl_embed.rerank.shape import Calibration, Shape, calibrate
from icl_embed.rerank.timed import RerankerPool, opened_reranker
from icl_embed.rerank.ways import (
    Way,
    WayRecord,
    cascades_over,
    full_way,
    name_of,
    passes_of,
    record_way,
    shape_of,
    way_of_record,
)
from icl_embed.store.files import write_atomically

ROUNDING = 1e-12  # equal qualities summed in another order


@dataclass(frozen=True)
class Limit:
    """What a choice may lose.

    Attributes
        max_loss: nDCG@10 as a fraction (0.005 is half a point).
        safe: hold the upper end of the loss's interval to it instead of the mean.
    """

    max_loss: float
    safe: bool = False
    how: Bootstrap = field(default_factory=Bootstrap)

    def allows(self, loss: Difference) -> bool:
        """Whether a loss is small enough."""
        return (loss.high if self.safe else loss.mean) <= self.max_loss + ROUNDING


@dataclass(frozen=True)
class Tried:
    """One way on the development queries.

    Attributes
        quality: nDCG@10, averaged over data sets.
        loss: full depth minus this way, paired.
        flops: mean operations per query.
        is_efficient: nothing tried is both cheaper and at least as good.
    """

    way: Way
    quality: Interval
    loss: Difference
    flops: float
    is_allowed: bool
    is_efficient: bool


@dataclass(frozen=True)
class Choice:
    """The chosen way among all that were tried, cheapest first."""

    chosen: Tried
    full: Tried
    tried: tuple[Tried, ...]
    limit: Limit

    @property
    def flops_saved(self) -> float:
        """Share of full depth's operations that the choice saves, both sharing the query's part."""
        return 1.0 - self.chosen.flops / self.full.flops


def choose_way(grid: Grid, ways: Sequence[Way], full: Way, limit: Limit) -> Choice:
    """The cheapest way within the limit; full depth itself when nothing cheaper is.

    Of equally cheap ways the better one is taken.
    """
    tried = tried_ways(grid, ways, full, limit)
    whole = next(one for one in tried if one.way == full)
    allowed = [one for one in tried if one.is_allowed or one is whole]
    chosen = min(allowed, key=lambda one: (one.flops, -one.quality.mean))
    return Choice(chosen, whole, tuple(tried), limit)


def tried_ways(grid: Grid, ways: Sequence[Way], full: Way, limit: Limit) -> list[Tried]:
    """Every way with its quality, loss and cost, cheapest first."""
    drawn = _replicates(grid, ways, limit.how)
    costs = {way: float(grid.flops(way).mean()) for way in ways}
    best, tried = -1.0, []
    for way in sorted(ways, key=lambda way: (costs[way], -grid.quality(way))):
        point = grid.quality(way)
        pair = (drawn[full], drawn[way])
        loss = paired_difference((grid.quality(full), point), pair, limit.how.confidence)
        quality = percentile_interval(point, drawn[way], limit.how.confidence)
        tried.append(Tried(way, quality, loss, costs[way], limit.allows(loss), point > best + ROUNDING))
        best = max(best, point)
    return tried


def _replicates(grid: Grid, ways: Sequence[Way], how: Bootstrap) -> dict[Way, Floats]:
    """The average quality on resampled queries [R] of every way; the same resamples for all."""
    drawn: dict[Way, Floats] = {way: np.zeros(how.resamples) for way in ways}
    for number in range(len(grid.sets)):  # outside, because the draws of one data set are kept for a while
        for way in ways:
            drawn[way] = drawn[way] + grid.measurements(way)[number].replicates(how) / len(grid.sets)
    return drawn


def refuse_test_queries(inputs: Sequence[Candidates]) -> None:
    """Choosing by test queries would make every later score on them worthless.

    Raises
        EvaluationError: an evaluation of a test split is among the inputs.
    """
    test = [candidates.dataset for candidates in inputs if candidates.split == "test"]
    if test:
        raise EvaluationError(
            f"{', '.join(test)}: these are test queries; a way is chosen on development queries only. Give "
            "evaluations of a dev split (the flow distill-reranker makes them), or a .jsonl file of queries"
        )


CHOICE_NAME = "choice.json"


class IntervalRecord(Section):
    """A value with its interval."""

    mean: float
    low: float
    high: float


class TriedRecord(Section):
    """What was measured of one way on the development queries; scores are fractions."""

    way: WayRecord
    ndcg: IntervalRecord
    loss: IntervalRecord
    gflops_per_query: float
    flops_saved_fraction: float
    is_allowed: bool
    is_efficient: bool


class ChoiceRecord(Section):
    """The content of ``choice.json``.

    Attributes
        bound: what was held to ``max_loss``: the mean loss, or the upper end of its interval.
        datasets: development queries of each data set.
        head_layers: of the reranker that was tuned; another one cannot use the choice.
        calibration: of the chosen way's last exit, fitted on the development queries; None where they have
            no irrelevant candidate, or no relevant one.
    """

    chosen: WayRecord
    batch_tokens: Count
    max_loss: float
    bound: Literal["mean", "interval"]
    confidence: float
    metric: str = NDCG
    datasets: dict[str, int]
    head_layers: tuple[Count, ...]
    calibration: Calibration | None = None
    tried: tuple[TriedRecord, ...]

    @property
    def chosen_result(self) -> TriedRecord:
        """What was measured of the chosen way."""
        return next(one for one in self.tried if one.way == self.chosen)


def record_of(
    choice: Choice,
    settings: RerankerSettings,
    *,
    batch_tokens: int,
    datasets: dict[str, int],
    calibration: Calibration | None,
) -> ChoiceRecord:
    """A choice in the form of its file."""
    limit = choice.limit
    return ChoiceRecord(
        chosen=record_way(choice.chosen.way),
        batch_tokens=batch_tokens,
        max_loss=limit.max_loss,
        bound="interval" if limit.safe else "mean",
        confidence=limit.how.confidence,
        datasets=datasets,
        head_layers=settings.head_layers,
        calibration=calibration,
        tried=tuple(_tried_record(one, choice.full.flops) for one in choice.tried),
    )


def write_choice(folder: Path, record: ChoiceRecord) -> None:
    """Write ``choice.json``.

    Raises
        StoreError: the disk refused.
    """
    write_atomically(folder / CHOICE_NAME, f"{record.model_dump_json(indent=1)}\n".encode())


def read_choice(path: Path) -> ChoiceRecord:
    """Read ``choice.json``, or the folder that holds it.

    Raises
        ConfigError: missing, or not such a file.
    """
    file = path / CHOICE_NAME if path.is_dir() else path
    try:
        return ChoiceRecord.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"cannot read {file}: {error.strerror or error}; icl-embed rerank tune writes it"
        ) from error
    except ValidationError as error:
        raise ConfigError(f"{file} is not what icl-embed rerank tune writes: {error}") from error


def way_of(record: ChoiceRecord, settings: RerankerSettings) -> Way:
    """The chosen way, for the reranker that shall run it.

    Raises
        ConfigError: the choice was made for another reranker.
    """
    if record.head_layers != settings.head_layers:
        raise ConfigError(
            f"the choice was made for a reranker with heads at {list(record.head_layers)}, this one has them "
            f"at {list(settings.head_layers)}; tune it with icl-embed rerank tune"
        )
    return way_of_record(record.chosen, settings)


def shown_tried(record: ChoiceRecord) -> Sequence[TriedRecord]:
    """What a table shows of hundreds of ways: the efficient ones and the chosen one, cheapest first."""
    return [one for one in record.tried if one.is_efficient or one.way == record.chosen]


def _tried_record(tried: Tried, full_flops: float) -> TriedRecord:
    return TriedRecord(
        way=record_way(tried.way),
        ndcg=_interval_record(tried.quality),
        loss=_interval_record(tried.loss),
        gflops_per_query=tried.flops / 1e9,
        flops_saved_fraction=1.0 - tried.flops / full_flops,
        is_allowed=tried.is_allowed,
        is_efficient=tried.is_efficient,
    )


def _interval_record(value: Interval | Difference) -> IntervalRecord:
    return IntervalRecord(mean=value.mean, low=value.low, high=value.high)


def tune_reranker(  # noqa: PLR0913 - the stage's whole context, passed once
    reranker_folder: Path,
    evaluations: Sequence[Path],
    config: RerankConfig,
    out_dir: Path,
    *,
    seed: int,
    bootstrap: Bootstrap,
    device: str = "auto",
    dtype: str = "auto",
    engine: EngineConfig = ONE_HERE,
    progress: Progress | None = None,
) -> Mapping[str, Any]:
    """Choose the cheapest way within ``config.tune.max_loss``; returns counts for the manifest.

    Parameters
        evaluations: evaluations of the embedder on dev splits.
        seed: which queries are kept when a data set has more than ``config.tune.max_queries``.

    Raises
        EvaluationError: no evaluation ranked a corpus, one is of a test split, or a file is damaged.
        ModelError: the reranker folder is incomplete, or a score is not finite.
    """
    tune = config.tune
    inputs = read_candidates(evaluations, top_k=config.top_k, max_queries=tune.max_queries, seed=seed)
    with opened_reranker(reranker_folder, engine, device=device, dtype=dtype) as reranker:
        record = tune_on(
            reranker,
            inputs,
            limit=Limit(tune.max_loss / 100, tune.safe, bootstrap),
            ratios=(config.compress_ratio, *config.compress_ratios_trained),
            cascades=tune.cascades,
            batch_tokens=config.batch_tokens,
            progress=progress,
        )
    write_choice(out_dir, record)
    result = record.chosen_result
    return {
        "chosen": name_of(way_of_record(record.chosen, reranker.settings)),
        "ways": len(record.tried),
        "queries": sum(record.datasets.values()),
        "loss": round(result.loss.mean, 4),
        "flops_saved_fraction": round(result.flops_saved_fraction, 4),
    }


def tune_on(
    reranker: Reranker | RerankerPool,
    inputs: Sequence[Candidates],
    *,
    limit: Limit,
    ratios: Sequence[int],
    cascades: bool,
    batch_tokens: int,
    progress: Progress | None = None,
) -> ChoiceRecord:
    """Score the candidates once per width, and choose among everything that those scores show.

    Raises
        EvaluationError: a data set is a test split.
        ModelError: a score is not finite.
    """
    refuse_test_queries(inputs)
    settings = reranker.settings
    passes = passes_of(settings, ratios)
    grid = score_grid(reranker, inputs, passes, batch_tokens=batch_tokens, progress=progress)
    ways: list[Way] = list(grid.exits)
    if cascades:
        ways += cascades_over(grid.exits, settings.head_layers)
    choice = choose_way(grid, ways, full_way(settings), limit)
    return record_of(
        choice,
        settings,
        batch_tokens=batch_tokens,
        datasets={one.candidates.dataset: len(one.queries) for one in grid.sets},
        calibration=_calibration(grid, shape_of(choice.chosen.way)),
    )


def _calibration(grid: Grid, shape: Shape) -> Calibration | None:
    """What makes probabilities of an exit's scores, from every candidate of the development queries."""
    scores = np.concatenate([grid.scores(one, shape) for one in grid.queries])
    labels = np.concatenate([np.asarray(one.query.relevance) > 0 for one in grid.queries])
    if labels.all() or not labels.any():
        return None
    return calibrate(shape, scores, labels)
