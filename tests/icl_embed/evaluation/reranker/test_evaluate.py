from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from icl_embed.errors import ConfigError, EvaluationError
from icl_embed.evaluation.measurement import Bootstrap, Measurement
from icl_embed.evaluation.reranker.candidates import ndcg_at_10, read_candidates
from icl_embed.evaluation.reranker.comparison import compare_rerankers
from icl_embed.evaluation.reranker.evaluate import evaluate_reranker
from icl_embed.evaluation.reranker.measure import relative_loss
from icl_embed.evaluation.reranker.tuning import ChoiceRecord, IntervalRecord, TriedRecord, write_choice
from icl_embed.rerank.folder import export_reranker
from icl_embed.rerank.reranker import Reranker
from icl_embed.rerank.ways import WayRecord
from tests.icl_embed.evaluation.reranker.first_stages import write_evaluation
from tests.icl_embed.rerank.conftest import CONFIG

HOW = Bootstrap(resamples=50)


@pytest.fixture
def saved(reranker: Reranker, tmp_path: Path) -> Path:
    folder = tmp_path / "reranker"
    export_reranker(reranker.model, reranker.tokenizer, reranker.settings, folder)
    return folder


def read_json(path: Path):
    return json.loads(path.read_bytes())


def write_a_choice(folder: Path, way: WayRecord) -> Path:
    nothing = IntervalRecord(mean=0.0, low=0.0, high=0.0)
    tried = TriedRecord(
        way=way, ndcg=nothing, loss=nothing, gflops_per_query=1.0, flops_saved_fraction=0.5, is_allowed=True,
        is_efficient=True,
    )  # fmt: skip
    record = ChoiceRecord(
        chosen=way, batch_tokens=8192, max_loss=0.005, bound="mean", confidence=0.95, datasets={"dev": 5},
        head_layers=(1, 2, 3, 4), tried=(tried,),
    )  # fmt: skip
    folder.mkdir()
    write_choice(folder, record)
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
    scores, curve = read_json(out / "scores.json"), read_json(out / "curve.json")
    assert {(point["layer"], point["ratio"], tuple(point["compress_layers"])) for point in curve} == {
        (1, 1, ()), (2, 1, ()), (3, 1, ()), (4, 1, ()), (2, 2, (1,)), (3, 2, (1, 2)), (4, 2, (1, 2)),
        (3, 2, (1,)), (4, 2, (1,)), (3, 2, (2,)), (4, 2, (2,)),
    }  # fmt: skip
    [chosen] = [point for point in curve if point["is_chosen"]]
    assert (chosen["layer"], chosen["ratio"], chosen["compress_layers"]) == (3, 2, [1, 2])
    assert scores["chosen_by"].startswith("config")
    kept = read_candidates(evaluations, top_k=8, max_queries=5, seed=3)
    for entry, candidates in zip(scores["datasets"], kept, strict=True):
        by_hand = [
            ndcg_at_10(
                query.relevance, reranker.score(query.pairs, cutoff_layer=3, compress_ratio=2), query.judged
            )
            for query in candidates.queries
        ]
        assert entry["dataset"] == candidates.dataset
        assert entry["num_queries"] == 5
        assert entry["lightweight"]["mean"] == pytest.approx(np.mean(by_hand))
        assert entry["lightweight"]["low"] <= entry["lightweight"]["mean"] <= entry["lightweight"]["high"]
        assert "bm25" not in entry
        for name in ("first_stage", "full_depth"):
            assert 0 <= entry[name]["mean"] <= entry["reachable"]
    full = next(point for point in curve if (point["layer"], point["ratio"]) == (4, 1))
    assert full["loss"]["mean"] == 0
    assert scores["flops_saved_fraction"] == pytest.approx(
        1 - chosen["gflops_per_query"] / full["gflops_per_query"]
    )
    assert scores["loss"]["mean"] == pytest.approx(full["ndcg"] - chosen["ndcg"])
    assert scores["relative_loss"] == pytest.approx(1 - chosen["ndcg"] / full["ndcg"])
    assert scores["flops_saved_against_recomputing_queries"] > scores["flops_saved_fraction"] > 0.2
    assert all(point["seconds_per_query"] > 0 for point in curve)
    assert scores["tokens"]["pair"]["mean"] > scores["tokens"]["passage"]["p50"] > 0
    assert parquet.read_table(out / "per_query.parquet").num_rows == 10 * (1 + len(curve))


def test_time_and_cost_grow_with_depth(saved: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"top_k": 8, "compress_ratios_trained": (1, 2)})
    out = tmp_path / "out"
    evaluate_reranker(
        saved, [write_evaluation(tmp_path / "one", "one")], config, out,
        seed=0, bootstrap=HOW, device="cpu", dtype="float32",
    )  # fmt: skip
    curve = read_json(out / "curve.json")
    points = sorted((point for point in curve if point["ratio"] == 1), key=lambda one: one["layer"])
    for cost in ("gflops_per_query", "seconds_per_query"):  # all from one pass
        values = [point[cost] for point in points]
        assert values == sorted(values)


@pytest.mark.parametrize(
    "way",
    [
        WayRecord(layer=2),
        WayRecord(layer=4, ratio=8, compress_layers=(2,)),
        WayRecord(layer=4, stages=((2, 0.5),)),
    ],
    ids=["shape", "a width of its own", "cascade"],
)
def test_the_stage_measures_what_tuning_chose(saved: Path, tmp_path: Path, way: WayRecord) -> None:
    choice = write_a_choice(tmp_path / "choice", way)
    out = tmp_path / "out"
    evaluate_reranker(
        saved, [write_evaluation(tmp_path / "one", "one")], CONFIG.model_copy(update={"top_k": 8}), out,
        seed=0, bootstrap=HOW, choice=choice, device="cpu", dtype="float32",
    )  # fmt: skip
    scores = read_json(out / "scores.json")
    assert scores["chosen_by"] == "development queries"
    [chosen] = [point for point in read_json(out / "curve.json") if point["is_chosen"]]
    assert WayRecord(**{name: chosen[name] for name in WayRecord.model_fields}) == way
    assert 0 < scores["flops_saved_fraction"] < 1
    assert chosen["seconds_per_query"] > 0


def test_a_choice_that_the_reranker_cannot_run_is_refused(saved: Path, tmp_path: Path) -> None:
    choice = write_a_choice(tmp_path / "choice", WayRecord(layer=7))
    with pytest.raises(ConfigError, match="no score head at layer 7"):
        evaluate_reranker(
            saved, [write_evaluation(tmp_path / "one", "one")], CONFIG, tmp_path / "out",
            seed=0, bootstrap=HOW, choice=choice, device="cpu", dtype="float32",
        )  # fmt: skip


def test_bm25_stands_beside_the_embedder_on_the_same_queries(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ours = write_evaluation(tmp_path / "ours", "one")
    bm25 = write_evaluation(tmp_path / "bm25", "one", turn=0)  # every query's ranking is p00, p01, …
    evaluate_reranker(
        saved, [ours], CONFIG.model_copy(update={"top_k": 8}), out,
        seed=0, bootstrap=HOW, bm25=[bm25], device="cpu", dtype="float32",
    )  # fmt: skip
    scores = read_json(out / "scores.json")
    expected = np.mean([0.0, *(1 / np.log2(rank + 1) for rank in (2, 3, 4, 5, 6))])
    assert scores["datasets"][0]["bm25"]["mean"] == pytest.approx(expected)
    assert set(scores["averages"]["mrr_at_10"]) == {"bm25", "first_stage", "full_depth", "lightweight"}
    silent = write_evaluation(tmp_path / "silent", "one", turn=0, unanswered=("q1", "q2"))
    evaluate_reranker(
        saved, [ours], CONFIG.model_copy(update={"top_k": 8}), tmp_path / "again",
        seed=0, bootstrap=HOW, bm25=[silent], device="cpu", dtype="float32",
    )  # fmt: skip
    found = read_json(tmp_path / "again" / "scores.json")["datasets"][0]["bm25"]["mean"]
    assert found == pytest.approx(np.mean([0.0, 0.0, 0.0, *(1 / np.log2(rank + 1) for rank in (4, 5, 6))]))
    few = write_evaluation(tmp_path / "few", "one", num_queries=2)
    with pytest.raises(EvaluationError, match="was not asked the query"):
        evaluate_reranker(
            saved, [ours], CONFIG, out, seed=0, bootstrap=HOW, bm25=[few], device="cpu", dtype="float32"
        )


def test_the_relative_loss_is_a_share_of_full_depth_with_a_paired_interval() -> None:
    generator = np.random.default_rng(0)
    ids = tuple(f"q{number}" for number in range(80))
    full = generator.random(80)
    pairs = [
        (Measurement("one", "mean", ids, tuple(full)), Measurement("one", "mean", ids, tuple(full * 0.9)))
    ]
    found = relative_loss(pairs, Bootstrap(resamples=300))
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    nothing = [(Measurement("one", "mean", ids, (0.0,) * 80),) * 2]
    assert relative_loss(nothing, HOW).mean == 0.0


def test_two_rerankers_are_compared_exit_by_exit_and_over_all_exits(
    make_reranker: Callable[..., Reranker], tmp_path: Path
) -> None:
    inputs = read_candidates(
        [write_evaluation(tmp_path / name, name) for name in ("a", "b")], top_k=8, max_queries=6, seed=0
    )
    first, second = make_reranker(), make_reranker()
    for weight in second.model.heads.by_layer.values():
        weight.data.mul_(-1)  # ranks everything the other way round
    found = compare_rerankers(first, second, inputs, HOW, batch_tokens=8192)
    assert [one.name for one in found.exits] == ["layer 1", "layer 2", "layer 3", "layer 4"]
    for one in found.exits:
        assert one.difference.mean == pytest.approx(one.first.mean - one.second.mean)
    assert found.mean.difference.mean == pytest.approx(np.mean([one.difference.mean for one in found.exits]))
    assert found.early_mean is not None
    assert found.early_mean.first.mean == pytest.approx(np.mean([one.first.mean for one in found.exits[:3]]))
    same = compare_rerankers(first, first, inputs, HOW, batch_tokens=8192).mean.difference
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)
    other = make_reranker(config=CONFIG.model_copy(update={"start_layer": 2}))
    with pytest.raises(ConfigError, match="have heads at"):
        compare_rerankers(first, other, inputs, HOW, batch_tokens=8192)


def test_a_report_can_be_read_from_the_stage(saved: Path, tmp_path: Path) -> None:
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
    assert len(facts.ways) == len(read_json(out / "curve.json"))
    assert len(facts.curve) == 4 + 3 + 3  # of several compressions that end at one layer, one is drawn
