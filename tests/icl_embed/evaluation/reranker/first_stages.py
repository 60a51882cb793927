"""Evaluation folders as the evaluation stage writes them, for reranking."""

from __future__ import annotations

from pathlib import Path

from icl_embed.evaluation.measurement import Measurement
from icl_embed.evaluation.scores import (
    EvaluationScores,
    SettingScore,
    write_scores,
    write_top_passages,
    write_values,
)
from icl_embed.evaluation.tasks.rows import SearchData
from icl_embed.few_shot.settings import ZERO_SHOT
from tests.tiny_models import WORDS


def write_evaluation(
    folder: Path,
    name: str,
    num_queries: int = 6,
    *,
    split: str = "test",
    turn: int = 7,
    unanswered: tuple[str, ...] = (),
) -> Path:
    """Query 0 finds nothing relevant, those ``unanswered`` nothing at all; ``turn`` makes rankings differ."""
    folder.mkdir()
    ids = tuple(f"q{number}" for number in range(num_queries))
    values = {ZERO_SHOT: Measurement(name, "mean", ids, (0.5,) * num_queries)}
    results = (SettingScore(ZERO_SHOT, 0, 0.5, 0.5, 0.5, num_queries, 1.0),)
    scores = EvaluationScores(
        name, "retrieval", "m", "f", "ndcg_at_10", "mean", False, 0.95, results, split=split
    )
    write_scores(folder, scores)
    write_values(folder, values)
    passages = {f"p{number:02d}": f"the {WORDS[number]} is in the {WORDS[-number]}" for number in range(20)}
    queries = {f"q{number}": f"find {WORDS[number]} {name}" for number in range(num_queries)}
    relevant = {f"q{number}": (f"p{number:02d}",) for number in range(num_queries)}
    ranking = {
        query_id: {
            passage_id: 1.0 - 0.01 * ((number * turn + spot) % 20)
            for spot, passage_id in enumerate(passages)
            if (query_id, passage_id) != ("q0", "p00") and query_id not in unanswered
        }
        for number, query_id in enumerate(queries)
    }
    write_top_passages(folder, SearchData(queries, passages, relevant), ranking)
    return folder
