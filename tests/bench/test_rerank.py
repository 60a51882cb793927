"""The reranking benchmark from end to end on a tiny model, and its reference against ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from icl_embed.rerank.reranker import Reranker
from tests.bench import rerank
from tests.bench.rerank_material import quick_rerank_material
from tests.bench.rerank_reference import ReferenceReranker

PAIRS = [("a cat", "the cat is in the tree"), ("a cat", "no"), ("a big dog", "the dog and the bird " * 8)]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_reference_way_gives_our_scores(tmp_path: Path, batch_size: int) -> None:
    folder = quick_rerank_material(tmp_path).reranker
    ours = Reranker.load(folder, device="cpu", dtype="float32")
    reference = ReferenceReranker(folder, dtype=torch.float32)
    found = reference.score(ours.pairs.pairs(PAIRS), batch_size=batch_size)
    np.testing.assert_allclose(found, ours.score(PAIRS), rtol=1e-4, atol=1e-5)


def test_every_promised_figure_is_there(tmp_path: Path) -> None:
    out = tmp_path / "rerank.json"
    result = rerank.main(["--quick", "--rounds", "2", "--queries", "4", "--threads", "1", "--out", str(out)])
    assert json.loads(out.read_text()) == json.loads(json.dumps(result))
    assert 0 <= result["flops_saved_against_shared_full_depth"] < result["flops_saved"] < 1
    assert np.isfinite(result["relative_ndcg_loss"])
    for ratio in ("time_vs_full_depth", "time_vs_reference", "latency_vs_full_depth", "latency_vs_reference"):
        assert result[ratio] > 0
    assert result["times"]["largest_score_difference_to_reference"] < 1e-3
    counted = [one["ours_over_torch"] for one in result["operations"].values()]
    assert counted == pytest.approx([1.0] * len(counted), rel=0.02)
    for mode in ("all_queries_in_one_call", "a_call_per_query"):
        assert all(len(found) == 2 for found in result["times"][mode]["seconds"].values())
    assert set(result["quality"]["averages"]["ndcg_at_10"]) == {
        "bm25", "first_stage", "full_depth", "lightweight",
    }  # fmt: skip
    assert [one["name"] for one in result["self_distillation"]["exits"]][-1] == "layer 4"
    assert len(result["ways"]) >= 4 + 3 + 3
    assert all(one["gflops_per_query"] > 0 and one["seconds_p95"] > 0 for one in result["ways"])
    for key in ("date", "commit", "processor", "load_at_start", "libraries", "setting"):
        assert result[key] is not None
