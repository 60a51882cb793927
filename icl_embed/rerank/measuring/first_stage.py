"""BM25 beside the embedder: another first stage, measured on the same queries by the same metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from icl_embed.errors import EvaluationError
from icl_embed.evaluate.measurement import Measurement
from icl_embed.evaluate.scores import EvaluationScores, read_measurements, read_scores
from icl_embed.rerank.measuring.candidates import first_stage_grades
from icl_embed.rerank.measuring.grid import ScoredSet
from icl_embed.rerank.measuring.metrics import METRICS, Metric


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
        if scores.dataset in wanted and scores.results:  # none: it had no word to go by
            found[scores.dataset] = _measured(folder, scores, wanted[scores.dataset])
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
