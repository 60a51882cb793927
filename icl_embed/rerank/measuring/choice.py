"""The choice as a file: ``choice.json``, written by tuning and read by whoever reranks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from icl_embed.config import Count, Section
from icl_embed.errors import ConfigError
from icl_embed.evaluate.statistics import Difference, Interval
from icl_embed.rerank.calibration import Calibration
from icl_embed.rerank.measuring.metrics import NDCG
from icl_embed.rerank.measuring.tune import Choice, Tried
from icl_embed.rerank.saved import RerankerSettings
from icl_embed.rerank.ways import Way, WayRecord, record_way, way_of_record
from icl_embed.store.files import write_atomically

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
