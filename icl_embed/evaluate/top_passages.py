"""The best passages of each query: what a reranker starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl_embed.evaluate.scores import TOP_PASSAGES_NAME
from icl_embed.evaluate.task_data import SearchData

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
