"""Rerankers in mteb's own evaluation: as a cross-encoder, and after a first stage."""

from pathlib import Path

import mteb
import numpy as np
import pytest
import torch
from mteb.models.models_protocols import CrossEncoderProtocol, EncoderProtocol, SearchProtocol

from icl_embed.bm25 import VERSION
from icl_embed.config import EvaluateConfig, RerankConfig
from icl_embed.errors import EvaluationError
from icl_embed.evaluation.mteb.local_tasks import build_task
from icl_embed.evaluation.mteb.run import bm25_for_mteb, encoder_for_mteb, items_of, run_task
from icl_embed.evaluation.mteb.second_stage import (
    GivenRanking,
    MtebCrossEncoder,
    MtebTwoStage,
    describe_reranker,
)
from icl_embed.evaluation.tasks.rows import read_task_data
from icl_embed.model.cached_encoding import CachingEncoder, Setting
from icl_embed.rerank.folder import start_from
from icl_embed.rerank.reranker import InWay, Reranker
from icl_embed.rerank.shape import Shape
from icl_embed.rerank.ways import Cascade
from tests.icl_embed.evaluation.folders import make_dataset, row, write_dataset
from tests.tiny_models import build_model

CONFIG = EvaluateConfig()
META = describe_reranker("overlap", "1")


class Overlap:
    """Counts common words; remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def score(self, pairs, /):
        self.asked += pairs
        return [float(len(set(query.split()) & set(passage.split()))) for query, passage in pairs]


def run(dataset, model):
    data = read_task_data(dataset)
    task = build_task(dataset, data, CONFIG)
    return run_task(task, model, items_of(dataset.name, data, task))


def test_they_have_mtebs_protocols():
    crossing, two_stage = MtebCrossEncoder(Overlap(), META), MtebTwoStage(GivenRanking({}), Overlap(), META)
    assert isinstance(crossing, CrossEncoderProtocol)
    assert not isinstance(crossing, EncoderProtocol)
    assert isinstance(two_stage, SearchProtocol)
    assert not isinstance(two_stage, EncoderProtocol | CrossEncoderProtocol)


def test_a_cross_encoder_ranks_the_candidates_of_a_reranking_task(tmp_path):
    dataset = make_dataset(tmp_path, "reranking")
    found = run(dataset, MtebCrossEncoder(Overlap(), META))
    data = read_task_data(dataset)
    for query_id, ranked in found.ranking.items():
        expected = {
            name: len(set(data.queries[query_id].split()) & set(data.passages[name].split()))
            for name in data.candidates[query_id]
        }
        assert ranked == pytest.approx(expected)


def test_the_second_stage_orders_what_the_first_one_found_and_drops_the_rest(tmp_path):
    dataset = make_dataset(tmp_path, "retrieval")
    scorer = Overlap()
    alone = run(dataset, bm25_for_mteb("", version=VERSION))
    both = run(dataset, MtebTwoStage(bm25_for_mteb("", version=VERSION), scorer, META, top_k=3))
    for query_id, ranked in both.ranking.items():
        first = sorted(alone.ranking[query_id], key=lambda name: -alone.ranking[query_id][name])[:3]
        assert len(ranked) == len(first)
        assert set(ranked.values()) <= set(map(float, range(20)))  # the scorer's own scores
    assert len(scorer.asked) == sum(len(ranked) for ranked in both.ranking.values())
    again = run(dataset, MtebTwoStage(GivenRanking(alone.ranking), Overlap(), META, top_k=3))
    assert again.measurement == both.measurement


def test_an_embedder_is_a_first_stage_and_a_reranking_tasks_candidates_need_none(tmp_path, encoder):
    for kind in ("retrieval", "reranking"):
        dataset = make_dataset(tmp_path / kind, kind)
        setting = Setting("zero-shot", "find")
        named = {"model_name": "toy", "model_fingerprint": "1"}
        first = encoder_for_mteb(CachingEncoder(encoder), setting, **named)
        found = run(dataset, MtebTwoStage(first, Overlap(), META, top_k=5))
        assert 0 <= found.main_score <= 1
        sizes = {len(ranked) for ranked in found.ranking.values()}
        assert sizes == ({5} if kind == "retrieval" else {4})


def test_a_real_reranker_runs_in_any_way(tmp_path):
    base = build_model(tmp_path / "base", layers=4)
    config = RerankConfig(start_layer=1, layer_step=1, compress_layers=(1,), max_tokens=96)
    model, tokenizer, settings = start_from(base, config, device=torch.device("cpu"), dtype=torch.float32)
    reranker = Reranker(model.eval(), tokenizer, settings)
    dataset = make_dataset(tmp_path / "data", "reranking")
    full = run(dataset, MtebCrossEncoder(reranker, META))
    same = run(dataset, MtebCrossEncoder(InWay(reranker, Shape(4)), META))
    assert full.measurement == same.measurement
    for way in (Shape(2), Shape(3, 2, (1,)), Cascade(((2, 2),), Shape(4))):
        meta = describe_reranker("tiny", "1", way=str(way))
        assert np.isfinite(
            run(dataset, MtebTwoStage(GivenRanking({}), InWay(reranker, way), meta)).main_score
        )


def test_ways_and_first_stages_have_names_of_their_own():
    metas = [
        describe_reranker("a b/c", "1"),
        describe_reranker("a b/c", "1", way="layer 2"),
        describe_reranker("a b/c", "1", way="layer 2", first_stage="bm25", top_k=50),
    ]
    assert len({(meta.name, str(meta.experiment_kwargs)) for meta in metas}) == 3
    assert metas[0].name == "icl-embed/a-b-c"
    assert metas[0].model_type == ["cross-encoder"]


def test_an_empty_passage_does_not_end_the_run(tmp_path):
    rows = [row("test", 0, "a cat", positives=["the cat"], negatives=[" "])]
    found = run(write_dataset(tmp_path, "reranking", rows), MtebCrossEncoder(Overlap(), META))
    assert found.main_score == 1.0


@pytest.mark.parametrize(("scores", "message"), [([1.0], "shape"), ([float("nan")] * 4, "not finite")])
def test_scores_that_cannot_be_used_are_refused(tmp_path, scores, message):
    class Broken:
        def score(self, pairs, /):
            return scores[: len(pairs)] if len(scores) == 1 else scores[:1] * len(pairs)

    with pytest.raises(EvaluationError, match=message):
        run(make_dataset(tmp_path, "reranking"), MtebCrossEncoder(Broken(), META))


def test_mteb_evaluates_it_without_our_runner(tmp_path: Path):
    dataset = make_dataset(tmp_path, "reranking")
    task = build_task(dataset, read_task_data(dataset), CONFIG)
    outcome = mteb.evaluate(
        MtebCrossEncoder(Overlap(), META), task, cache=None, co2_tracker=False, show_progress_bar=False
    )
    assert outcome.task_results[0].scores["test"][0]["main_score"] > 0
