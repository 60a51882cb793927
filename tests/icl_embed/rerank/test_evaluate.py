from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from icl_embed.errors import EvaluationError
from icl_embed.evaluate.measurement import Bootstrap
from icl_embed.evaluate.scores import EvaluationScores, write_scores
from icl_embed.evaluate.task_data import SearchData
from icl_embed.evaluate.top_passages import write_top_passages
from icl_embed.rerank.candidates import ndcg_at_10, read_candidates
from icl_embed.rerank.evaluate import evaluate_reranker
from icl_embed.rerank.grid import shapes_of
from icl_embed.rerank.saved import export_reranker
from icl_embed.rerank.score import Reranker
from icl_embed.rerank.shape import Shape
from tests.icl_embed.rerank.conftest import CONFIG
from tests.tiny_models import WORDS

HOW = Bootstrap(resamples=50)


def write_evaluation(folder: Path, name: str, num_queries: int = 6) -> Path:
    """An evaluation folder as the evaluation stage writes it; query 0 finds nothing relevant."""
    folder.mkdir()
    write_scores(folder, EvaluationScores(name, "retrieval", "m", "f", "ndcg_at_10", "mean", False, 0.95, ()))
    passages = {f"p{number:02d}": f"the {WORDS[number]} is in the {WORDS[-number]}" for number in range(20)}
    queries = {f"q{number}": f"find {WORDS[number]} {name}" for number in range(num_queries)}
    relevant = {f"q{number}": (f"p{number:02d}",) for number in range(num_queries)}
    ranking = {
        query_id: {
            passage_id: 1.0 - 0.01 * ((number * 7 + spot) % 20)
            for spot, passage_id in enumerate(passages)
            if (query_id, passage_id) != ("q0", "p00")
        }
        for number, query_id in enumerate(queries)
    }
    data = SearchData(queries, passages, relevant)
    write_top_passages(folder, data, ranking)
    return folder


@pytest.fixture
def saved(reranker: Reranker, tmp_path: Path) -> Path:
    folder = tmp_path / "reranker"
    export_reranker(reranker.model, reranker.tokenizer, reranker.settings, folder)
    return folder


def test_the_stage_measures_every_exit_and_ratio_and_agrees_with_scoring_by_hand(
    saved: Path, reranker: Reranker, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"top_k": 8, "max_queries": 5, "compress_ratios_trained": (1, 2)})
    evaluations = [write_evaluation(tmp_path / name, name) for name in ("beta", "alpha")]
    bare = tmp_path / "classification"
    bare.mkdir()
    out = tmp_path / "out"
    counts = evaluate_reranker(
        saved, [*evaluations, bare], config, out, seed=3, bootstrap=HOW, device="cpu", dtype="float32"
    )
    assert (counts["queries"], counts["datasets"], counts["skipped"]) == (10, ["alpha", "beta"], 1)
    scores, curve = (json.loads((out / name).read_bytes()) for name in ("scores.json", "curve.json"))
    assert {(point["layer"], point["ratio"]) for point in curve} == {
        (1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (4, 2),
    }  # fmt: skip
    [chosen] = [point for point in curve if point["is_chosen"]]
    assert (chosen["layer"], chosen["ratio"], chosen["compress_layers"]) == (3, 2, [1, 2])
    assert scores["chosen"] == {"layer": 3, "ratio": 2, "compress_layers": [1, 2]}
    kept = read_candidates(evaluations, top_k=8, max_queries=5, seed=3)
    for entry, candidates in zip(scores["datasets"], kept, strict=True):
        by_hand = [
            ndcg_at_10(query.relevance, reranker.score(query.pairs, cutoff_layer=3, compress_ratio=2))
            for query in candidates.queries
        ]
        assert entry["dataset"] == candidates.dataset
        assert entry["num_queries"] == 5
        assert entry["lightweight"]["mean"] == pytest.approx(np.mean(by_hand))
        assert entry["lightweight"]["low"] <= entry["lightweight"]["mean"] <= entry["lightweight"]["high"]
        for name in ("first_stage", "full_depth"):
            assert 0 <= entry[name]["mean"] <= entry["reachable"]
    full = next(point for point in curve if (point["layer"], point["ratio"]) == (4, 1))
    assert scores["flops_saved_fraction"] == pytest.approx(
        1 - chosen["gflops_per_query"] / full["gflops_per_query"]
    )
    assert scores["flops_saved_against_recomputing_queries"] > scores["flops_saved_fraction"] > 0.2
    assert all(point["seconds_per_query"] > 0 for point in curve)
    table = parquet.read_table(out / "per_query.parquet")
    assert table.num_rows == 10 * (1 + len(curve))


def test_time_and_cost_grow_with_depth(saved: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"top_k": 8, "compress_ratios_trained": (1, 2)})
    out = tmp_path / "out"
    evaluate_reranker(
        saved, [write_evaluation(tmp_path / "one", "one")], config, out,
        seed=0, bootstrap=HOW, device="cpu", dtype="float32",
    )  # fmt: skip
    curve = json.loads((out / "curve.json").read_bytes())
    for ratio in (1, 2):
        points = sorted((point for point in curve if point["ratio"] == ratio), key=lambda one: one["layer"])
        for cost in ("gflops_per_query", "seconds_per_query"):
            values = [point[cost] for point in points]
            assert values == sorted(values)


def test_the_grid_leaves_out_compression_that_never_acts() -> None:
    config = CONFIG.model_copy(
        update={"compress_layers": (4, 8), "compress_ratio": 2, "compress_ratios_trained": (1, 4)}
    )
    shapes = shapes_of((4, 8, 12), config)
    assert Shape(8, 4, (4,)) in shapes
    assert Shape(12, 2, (4, 8)) in shapes
    assert len(shapes) == 3 + 2 + 2


def test_ndcg_agrees_with_trec_eval() -> None:
    import pytrec_eval

    generator = np.random.default_rng(0)
    for _ in range(20):
        relevance = generator.integers(0, 3, size=30)
        scores = generator.permutation(30).astype(float)
        names = [f"p{number}" for number in range(30)]
        judge = pytrec_eval.RelevanceEvaluator(
            {"q": dict(zip(names, relevance.tolist(), strict=True))}, {"ndcg_cut.10"}
        )
        run = {"q": dict(zip(names, scores.tolist(), strict=True))}
        expected = judge.evaluate(run)["q"]["ndcg_cut_10"]
        assert ndcg_at_10(relevance.tolist(), scores) == pytest.approx(expected)
    assert ndcg_at_10([0, 0], [1.0, 2.0]) == 0.0
    assert ndcg_at_10([1, 0], [1.0, 1.0]) == 1.0


def test_which_queries_are_kept_depends_on_the_seed_alone(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "one", "one", num_queries=15)

    def kept(seed: int) -> list[str]:
        [found] = read_candidates([folder], top_k=3, max_queries=5, seed=seed)
        assert all(len(query.passages) == 3 for query in found.queries)
        return [query.query_id for query in found.queries]

    assert kept(1) == kept(1)
    assert len({tuple(kept(seed)) for seed in range(5)}) > 1


def test_evaluations_without_a_ranking_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="at least one retrieval data set"):
        read_candidates([tmp_path], top_k=3, max_queries=5, seed=0)
    folder = write_evaluation(tmp_path / "one", "one")
    path = folder / "top_passages.parquet"
    table = parquet.read_table(path)
    parquet.write_table(table.slice(0, 0), path)
    with pytest.raises(EvaluationError, match="holds no query"):
        read_candidates([folder], top_k=3, max_queries=5, seed=0)
    parquet.write_table(table.drop_columns(["relevance"]), path)
    with pytest.raises(EvaluationError, match="cannot read"):
        read_candidates([folder], top_k=3, max_queries=5, seed=0)
    path.write_bytes(b"junk")
    with pytest.raises(EvaluationError, match="cannot read"):
        read_candidates([folder], top_k=3, max_queries=5, seed=0)


def test_a_report_can_be_read_from_the_stage(
    saved: Path, tmp_path: Path, make_reranker: Callable[..., Reranker]
) -> None:
    from icl_embed.report.reranking import read_reranking

    out = tmp_path / "out"
    evaluate_reranker(
        saved, [write_evaluation(tmp_path / "one", "one")], CONFIG.model_copy(update={"top_k": 5}), out,
        seed=0, bootstrap=HOW, device="cpu", dtype="float32",
    )  # fmt: skip
    facts = read_reranking(out)
    assert facts is not None
    assert facts.flops_saved is not None
    assert {name for name, _ in facts.columns} == {"first_stage", "lightweight", "full_depth"}
    assert len(facts.curve) == 4 + 3 + 3
