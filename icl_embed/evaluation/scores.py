"""The files of a score artefact, written and read in one place.

- ``scores.json``: one entry per setting with mean, interval, tokens and seconds, and what is absent and why.
- ``per_query.parquet``: the values behind each score (setting, query_id, value, target, and the two texts of
  a pair).
- ``examples.json``: the exact examples of each setting.
- ``mteb/<setting>.json`` or ``air_bench/…``: the benchmark's own result.
- ``ranking.parquet`` (retrieval, reranking): the best passages of each query.
- ``top_passages.parquet`` (own cards that are searched): the same with their texts and grades, which a
  reranker starts from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from icl_embed.config import Kind
from icl_embed.errors import EvaluationError
from icl_embed.evaluation.measurement import Aggregation, Measurement
from icl_embed.evaluation.tasks.rows import PREFIX, SearchData
from icl_embed.examples import Example
from icl_embed.few_shot.settings import AskedSetting

STAGE = "score"
SCORES_NAME = "scores.json"
VALUES_NAME = "per_query.parquet"
EXAMPLES_NAME = "examples.json"
RANKING_NAME = "ranking.parquet"
TOP_PASSAGES_NAME = "top_passages.parquet"

BM25 = "bm25"


@dataclass(frozen=True)
class SettingScore:
    """One model in one setting on one data set.

    Attributes
        shots: examples asked for.
        mean, low, high: the score and its interval, as fractions of one.
        num_queries: test items behind the score (clustering: sets of texts).
        query_tokens_mean: tokens of a query with everything before it; None for BM25.
        seconds: the whole run; vectors shared with an earlier setting cost nothing here.
        query_seconds, passage_seconds: encoding alone; None for BM25.
        encoded_queries, encoded_passages: texts encoded in those seconds; the others' vectors were at hand.
        selection, seed, quality: how the examples were chosen, see ``few_shot.settings``.
        examples_shown: how many of ``shots`` there were and fitted into the prompt, per query at most.
        prefix_tokens_mean: tokens before the query that its prefix holds (instruction, examples).
        draws: the score of each classifier that this one is an average over, if any.
    """

    setting: str
    shots: int
    mean: float
    low: float
    high: float
    num_queries: int
    seconds: float
    query_tokens_mean: float | None = None
    query_seconds: float | None = None
    passage_seconds: float | None = None
    encoded_queries: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    encoded_passages: int = 0
    selection: str = ""
    seed: int = 0
    quality: str = "clean"
    examples_shown: int | None = None
    prefix_tokens_mean: float | None = None
    draws: tuple[float, ...] = ()

    @property
    def group(self) -> str:
        """The setting without its seed: draws of one group are compared and averaged."""
        if not self.shots or not self.selection:
            return self.setting
        return AskedSetting(self.shots, self.selection, 0, self.quality).name  # type: ignore[arg-type]


@dataclass(frozen=True)
class Absence:
    """A setting that was not measured, and why."""

    setting: str
    reason: str


@dataclass(frozen=True)
class EvaluationScores:
    """The content of ``scores.json``.

    Attributes
        dataset: the task; measurements are compared only within one.
        family: ``mteb``, ``air-bench`` or ``local``: whose task it is.
        split, subset: what was evaluated.
        served_from: where the task's data came from, and how exact a mirror is.
        data_fingerprint: hash of the data that were read.
        instruction: what queries were asked with.
        dtype: number format of the model's weights.
    """

    dataset: str
    kind: Kind
    model: str
    model_fingerprint: str
    metric: str
    aggregation: Aggregation
    trained_on: bool
    confidence: float
    results: tuple[SettingScore, ...]
    absent: tuple[Absence, ...] = ()
    family: str = "local"
    split: str = "test"
    subset: str = "default"
    served_from: str = ""
    data_fingerprint: str = ""
    instruction: str = ""
    dtype: str = ""

    @property
    def card(self) -> str:
        """The name of an own card; the task's name where it is a benchmark's."""
        return self.dataset.removeprefix(PREFIX)

    def of(self, setting: str) -> SettingScore | None:
        """The score of a setting, if it was measured."""
        return next((result for result in self.results if result.setting == setting), None)


def write_scores(folder: Path, scores: EvaluationScores) -> None:
    """Write ``scores.json``."""
    text = json.dumps(asdict(scores), indent=1, allow_nan=False)
    (folder / SCORES_NAME).write_text(text, encoding="utf-8")


def read_scores(folder: Path) -> EvaluationScores:
    """Read ``scores.json``.

    Raises
        EvaluationError: missing, or not what this version writes.
    """
    path = folder / SCORES_NAME
    try:
        fields = json.loads(path.read_bytes())
        fields["results"] = tuple(SettingScore(**result) for result in fields["results"])
        fields["absent"] = tuple(Absence(**absence) for absence in fields["absent"])
        scores = EvaluationScores(**fields)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EvaluationError(f"{path} is not an evaluation's scores: {error}") from error
    if scores.kind not in get_args(Kind):
        raise EvaluationError(f"{path}: unknown kind {scores.kind!r}, expected one of {get_args(Kind)}")
    return scores


def write_values(folder: Path, measurements: dict[str, Measurement]) -> None:
    """Write the values of all settings to ``per_query.parquet``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("setting", "query_id", "value", "target", "first", "second")
    rows: dict[str, list[Any]] = {name: [] for name in names}
    for setting, measured in measurements.items():
        rows["setting"] += [setting] * len(measured.ids)
        rows["query_id"] += measured.ids
        rows["value"] += measured.values
        rows["target"] += measured.targets or [None] * len(measured.ids)
        pairs = measured.pairs or [(None, None)] * len(measured.ids)
        rows["first"] += [first for first, _ in pairs]
        rows["second"] += [second for _, second in pairs]
    fields = [
        ("setting", pa.string()),
        ("query_id", pa.string()),
        ("value", pa.float64()),
        ("target", pa.float64()),
        ("first", pa.string()),
        ("second", pa.string()),
    ]
    pq.write_table(pa.table(rows, schema=pa.schema(fields)), folder / VALUES_NAME)


def read_measurements(folder: Path, scores: EvaluationScores) -> dict[str, Measurement]:
    """The measurement of each setting, in the order of ``scores.json``.

    Raises
        EvaluationError: missing, or without the values of a setting.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / VALUES_NAME
    if not scores.results:
        return {}
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise EvaluationError(f"cannot read {path}: {error}") from error
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["setting"], []).append(row)
    measurements = {}
    for result in scores.results:
        items = grouped.get(result.setting, [])
        targets = tuple(item["target"] for item in items)
        texts = [(item.get("first"), item.get("second")) for item in items]
        pairs = tuple((first, second) for first, second in texts if first and second)
        measurements[result.setting] = Measurement(
            scores.dataset,
            scores.aggregation,
            tuple(item["query_id"] for item in items),
            tuple(item["value"] for item in items),
            None if None in targets else targets,
            pairs if items and len(pairs) == len(items) else None,
            tuple(result.draws),
        )
    return measurements


def write_ranking(folder: Path, ranking: Mapping[str, Mapping[str, float]], *, depth: int) -> None:
    """Write ``ranking.parquet``: the best ``depth`` passages of each query, best first.

    Equal scores are ordered by descending identity, as trec_eval does.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: dict[str, list[Any]] = {"query_id": [], "passage_id": [], "score": []}
    for query_id, found in ranking.items():
        best = sorted(found.items(), key=lambda item: (item[1], item[0]), reverse=True)[:depth]
        rows["query_id"] += [query_id] * len(best)
        rows["passage_id"] += [passage_id for passage_id, _ in best]
        rows["score"] += [score for _, score in best]
    fields = [("query_id", pa.string()), ("passage_id", pa.string()), ("score", pa.float64())]
    pq.write_table(pa.table(rows, schema=pa.schema(fields)), folder / RANKING_NAME, compression="zstd")


def read_ranking(folder: Path) -> dict[str, dict[str, float]]:
    """Query -> passage -> score, best first.

    Raises
        EvaluationError: missing or unreadable.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(folder / RANKING_NAME).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise EvaluationError(f"cannot read {folder / RANKING_NAME}: {error}") from error
    ranking: dict[str, dict[str, float]] = {}
    for row in rows:
        ranking.setdefault(row["query_id"], {})[row["passage_id"]] = row["score"]
    return ranking


def write_examples(folder: Path, examples: dict[str, dict[str, Any]]) -> None:
    """Write ``examples.json``: per setting the instruction and the examples shown, in order.

    A setting that chooses per query has ``sets`` and ``set_of_query`` (in the order of the test queries)
    instead of ``examples``.
    """
    text = json.dumps(examples, indent=1, ensure_ascii=False)
    (folder / EXAMPLES_NAME).write_text(text, encoding="utf-8")


def read_examples(folder: Path, setting: str) -> tuple[Example, ...]:
    """The examples of a setting; none when it had none."""
    try:
        shown = json.loads((folder / EXAMPLES_NAME).read_bytes()).get(setting, {}).get("examples", [])
        return tuple(Example(item["query"], item["response"]) for item in shown)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EvaluationError(f"{folder / EXAMPLES_NAME} is not a list of examples: {error}") from error


NUM_PASSAGES = 100


def write_top_passages(folder: Path, data: SearchData, ranking: Mapping[str, Mapping[str, float]]) -> None:
    """Write ``top_passages.parquet``: rank 0 is the best, ties in the order of the metric code."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: dict[str, list[Any]] = {field.name: [] for field in _schema(pa)}
    for query_id, query in data.queries.items():
        relevant = set(data.relevant[query_id])
        # trec_eval breaks ties by descending identity.
        found = sorted(ranking[query_id].items(), key=lambda item: (item[1], item[0]), reverse=True)
        for rank, (passage_id, score) in enumerate(found[:NUM_PASSAGES]):
            values = (query_id, query, passage_id, data.passages[passage_id], rank, score)
            judged = (int(passage_id in relevant), len(relevant))
            for column, value in zip(rows, (*values, *judged), strict=True):
                rows[column].append(value)
    pq.write_table(pa.table(rows, schema=_schema(pa)), folder / TOP_PASSAGES_NAME)


def _schema(pa: Any) -> Any:
    text = ("query_id", "query", "passage_id", "passage")
    numbers = [("rank", pa.int32()), ("score", pa.float64()), ("relevance", pa.int32())]
    numbers += [("num_relevant", pa.int32())]  # of the query, found or not
    return pa.schema([(name, pa.string()) for name in text] + numbers)
