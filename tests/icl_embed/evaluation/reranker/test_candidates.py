from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyarrow import parquet

from icl_embed.errors import DataError, EvaluationError
from icl_embed.evaluation.reranker.candidates import read_candidates
from tests.icl_embed.evaluation.reranker.first_stages import write_evaluation

LINE = {"query": "a cat", "passages": ["the cat", "a dog", "cats"], "relevance": [1, 0, 2]}


def read(*sources: Path, top_k: int = 3, max_queries: int = 5, seed: int = 0):
    return read_candidates(sources, top_k=top_k, max_queries=max_queries, seed=seed)


def test_which_queries_are_kept_depends_on_the_seed_alone(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "one", "one", num_queries=15)

    def kept(seed: int) -> list[str]:
        [found] = read(folder, seed=seed)
        assert all(len(query.passages) == 3 for query in found.queries)
        return [query.query_id for query in found.queries]

    assert kept(1) == kept(1)
    assert len({tuple(kept(seed)) for seed in range(5)}) > 1


def test_relevant_passages_beyond_the_candidates_are_judged_all_the_same(tmp_path: Path) -> None:
    [found] = read(write_evaluation(tmp_path / "one", "one"), top_k=1, max_queries=10)
    assert {query.judged for query in found.queries} == {(1,)}  # of q0, even though nothing found it
    assert sum(map(sum, (query.relevance for query in found.queries))) < len(found.queries)


def test_evaluations_of_earlier_versions_know_what_they_found(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "one", "one")
    path = folder / "top_passages.parquet"
    parquet.write_table(parquet.read_table(path).drop_columns(["num_relevant"]), path)
    [found] = read(folder, max_queries=10)
    assert {query.query_id: query.judged for query in found.queries}["q0"] == ()
    assert {query.judged for query in found.queries} == {(), (1,)}


def test_evaluations_without_a_ranking_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="at least one retrieval or reranking data set"):
        read(tmp_path)
    folder = write_evaluation(tmp_path / "one", "one")
    with pytest.raises(EvaluationError, match="given 2 times"):
        read(folder, folder)
    path = folder / "top_passages.parquet"
    table = parquet.read_table(path)
    parquet.write_table(table.slice(0, 0), path)
    with pytest.raises(EvaluationError, match="holds no query"):
        read(folder)
    parquet.write_table(table.drop_columns(["relevance"]), path)
    with pytest.raises(EvaluationError, match="cannot read"):
        read(folder)
    path.write_bytes(b"junk")
    with pytest.raises(EvaluationError, match="cannot read"):
        read(folder)


def test_a_file_of_queries_is_a_data_set(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    named = {**LINE, "query_id": "b"}
    path.write_text(json.dumps(LINE) + "\n\n" + json.dumps(named) + "\n")
    [found] = read(path, top_k=2)
    assert (found.dataset, found.split, [query.query_id for query in found.queries]) == (
        "mine", "", ["b", "line-000001"],
    )  # fmt: skip
    assert found.queries[0].passages == ("the cat", "a dog")
    assert found.queries[0].relevance == (1, 0)
    assert found.queries[0].judged == (1, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no query"),
        ("{", "line 1: expected"),
        ("[1]", "line 1: expected"),
        (json.dumps({**LINE, "relevance": [1]}), "expected a grade for each passage"),
        (json.dumps({**LINE, "relevance": [1, 0, -1]}), "line 1: expected"),
        (json.dumps({**LINE, "relevance": [1, 0, True]}), "line 1: expected"),
        (json.dumps({**LINE, "passages": ["a", "b", 3]}), "line 1: expected"),
        (json.dumps({**LINE, "passages": [], "relevance": []}), "line 1: expected"),
        ("\n".join([json.dumps({**LINE, "query_id": "x"})] * 2), "the query_id 'x' 2 times"),
    ],
)
def test_a_file_that_is_not_queries_with_candidates_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        read(path)
    with pytest.raises(DataError, match="cannot read"):
        read(tmp_path / "missing.jsonl")
