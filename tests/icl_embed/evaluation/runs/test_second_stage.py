"""``eval run --reranker``: a reranker after the model of a run, on every kind of benchmark."""

import json

import numpy as np
import pytest
import torch

from flows.command_line import app
from icl_embed.config import RerankConfig
from icl_embed.errors import ConfigError, ModelError
from icl_embed.evaluation.grid import RunRequest, run_grid
from icl_embed.evaluation.measurement import Bootstrap
from icl_embed.evaluation.models import SecondStage, open_second_stage
from icl_embed.evaluation.scores import read_ranking, read_scores
from icl_embed.evaluation.summary import as_json, summarise
from icl_embed.evaluation.tasks.opening import TaskPlaces, task_names
from icl_embed.few_shot.settings import AskedSetting
from icl_embed.rerank.folder import export_reranker, start_from
from icl_embed.rerank.reranker import Reranker
from tests.icl_embed.evaluation.runs.conftest import opened
from tests.icl_embed.evaluation.runs.local_store import add_dataset
from tests.tiny_models import build_model


class Overlap:
    """Counts common words."""

    def score(self, pairs, /):
        return [float(len(set(query.split()) & set(passage.split()))) for query, passage in pairs]


def second_stage(tmp_path, *, top_k=5, fingerprint="feedbeef"):
    found = SecondStage("overlap", fingerprint, tmp_path, top_k=top_k)
    found.__dict__["scorer"] = Overlap()  # where the cached property would keep it
    return found


@pytest.fixture
def run(store, config, encoder, tmp_path):
    def make(*tasks, second=None):
        places = TaskPlaces(store, config=config)
        request = RunRequest(tuple(task_names(tasks, places)), (AskedSetting(0),), places, config=config)
        model = opened(encoder, tmp_path, second=second)
        return run_grid(request, model, store), model

    return make


def test_the_reranked_ranking_is_scored_under_a_name_of_its_own(run, store, tmp_path):
    task = add_dataset(store, "facts", "retrieval")
    [alone] = run(task)[0].measured
    outcome, model = run(task, second=second_stage(tmp_path))
    [both] = outcome.measured
    assert alone.artefact.reference != both.artefact.reference
    scores = read_scores(both.artefact.path)
    assert (scores.model, read_scores(alone.artefact.path).model) == ("toy+overlap on 5", "toy")
    before, after = read_ranking(alone.artefact.path), read_ranking(both.artefact.path)
    for query, ranked in after.items():
        best = sorted(before[query].values(), reverse=True)[:5]
        assert {passage for passage in ranked} <= {p for p, s in before[query].items() if s >= best[-1]}
        assert len(ranked) == 5
        assert list(ranked.values()) == sorted(map(round, ranked.values()), reverse=True)  # common words
    assert (
        as_json(summarise(outcome, model.shown.name, Bootstrap(50)), model)["model"]["name"]
        == "toy+overlap on 5"
    )
    assert not run(task, second=second_stage(tmp_path))[0].measured[0].is_new
    assert run(task, second=second_stage(tmp_path, top_k=4))[0].measured[0].is_new


def test_candidates_of_a_reranking_task_are_all_ordered(run, store, tmp_path):
    [one] = run(add_dataset(store, "forum", "reranking"), second=second_stage(tmp_path, top_k=1))[0].measured
    assert all(len(ranked) > 1 for ranked in read_ranking(one.artefact.path).values())


def test_what_ranks_nothing_is_left_out_with_the_reason(run, store, tmp_path):
    outcome, _ = run(add_dataset(store, "moods", "classification"), second=second_stage(tmp_path))
    assert not outcome.measured
    assert "a reranker orders passages" in outcome.absent[0].reason


@pytest.fixture
def folder(tmp_path):
    base = build_model(tmp_path / "base", layers=4)
    config = RerankConfig(start_layer=1, layer_step=1, compress_layers=(1,), max_tokens=96)
    model, tokenizer, settings = start_from(base, config, device=torch.device("cpu"), dtype=torch.float32)
    export_reranker(model, tokenizer, settings, tmp_path / "mine")
    return tmp_path / "mine"


def test_a_reranker_is_opened_by_folder_and_runs_as_tuned(folder, store, tmp_path):
    opened_one = open_second_stage(str(folder), store, choice=None, top_k=9, device="cpu", dtype="float32")
    assert (opened_one.name, opened_one.way, opened_one.top_k) == ("mine", "full depth", 9)
    pairs = [("a cat", "the cat"), ("a cat", "a dog")]
    expected = Reranker.load(folder, device="cpu", dtype="float32").score(pairs)
    np.testing.assert_array_equal(opened_one.scorer.score(pairs), expected)
    with pytest.raises(ModelError, match="neither a folder nor an artefact"):
        open_second_stage("nowhere", store, choice=None, top_k=9, device="cpu", dtype="float32")
    with pytest.raises(ConfigError, match="cannot read"):
        open_second_stage(str(folder), store, choice=tmp_path / "no", top_k=9, device="cpu", dtype="float32")


def test_the_command_takes_a_reranker_after_bm25(folder, store, tmp_path):
    from typer.testing import CliRunner

    task = add_dataset(store, "facts", "retrieval")
    words = ["eval", "run", "--tasks", task, "--model", "bm25", "--reranker", str(folder), "--shots", "0"]
    words += ["--rerank-top-k", "3", "--store", str(store.root), "--json", str(tmp_path / "scores.json")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert json.loads((tmp_path / "scores.json").read_text())["model"]["name"] == "bm25+mine on 3"
    result = CliRunner().invoke(app, ["eval", "run", "--tasks", task, "--rerank-choice", "c.json"])
    assert isinstance(result.exception, ConfigError | ModelError)
