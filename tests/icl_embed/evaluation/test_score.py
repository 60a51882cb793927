"""A score's folder: what is in it, for every kind of task, with examples, without, and where there is none."""

import json

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from icl_embed.config import EvaluateConfig, PromptConfig
from icl_embed.errors import EvaluationError
from icl_embed.evaluation.models import open_model
from icl_embed.evaluation.scores import read_examples, read_measurements, read_scores
from icl_embed.few_shot.settings import AskedSetting
from icl_embed.store import Store
from tests.icl_embed.evaluation.folders import (
    BM25_MODEL,
    make_dataset,
    row,
    score_folder,
    write_dataset,
    write_pool,
)
from tests.icl_embed.evaluation.runs.conftest import opened

CONFIG = EvaluateConfig(shots=2, label_experiments=2, cluster_sets=4, bootstrap_resamples=200)
PAIRS = [("red fish", "a fish that is red"), ("big moon", "the moon is big"), ("old tree", "a tree of age")]
ZERO, FEW = AskedSetting(0), AskedSetting(2, "fixed")


def bm25(dataset, folder):
    return score_folder(dataset, BM25_MODEL, None, folder, config=CONFIG)


@pytest.fixture(scope="module")
def scored(tmp_path_factory, tiny_model):
    """One retrieval set under a real tiny model, without and with examples of a pool."""
    home = tmp_path_factory.mktemp("scored")
    dataset = make_dataset(home / "data", "retrieval", size=12)
    pool = write_pool(home / "pool", dataset, PAIRS)
    model = open_model(
        str(tiny_model), Store(home / "store"), prompt=PromptConfig(), device="cpu", dtype="float32"
    )
    counts = {
        asked.name: score_folder(dataset, model, asked, home / asked.name, config=CONFIG, pool=pool)
        for asked in (ZERO, FEW)
    }
    return home, dataset, counts


def test_scores_have_intervals_tokens_and_seconds(scored):
    home, dataset, counts = scored
    (zero,), (few,) = (read_scores(home / asked.name).results for asked in (ZERO, FEW))
    scores = read_scores(home / ZERO.name)
    assert (scores.dataset, scores.card, scores.metric) == (
        f"data/{dataset.name}",
        dataset.name,
        "ndcg_at_10",
    )
    assert (zero.setting, zero.shots, few.setting, few.shots) == ("zero-shot", 0, "2-shot fixed", 2)
    assert few.query_tokens_mean > zero.query_tokens_mean + 10
    for result in (zero, few):
        assert 0 <= result.low <= result.mean <= result.high <= 1
        assert result.num_queries == result.encoded_queries == 12
        assert result.query_seconds > 0
        assert counts[result.setting]["scores"] == {result.setting: round(result.mean, 4)}
    assert zero.passage_seconds > 0


def test_the_values_behind_the_scores_can_be_read_back(scored):
    home, _, _ = scored
    for asked in (ZERO, FEW):
        scores = read_scores(home / asked.name)
        measured = read_measurements(home / asked.name, scores)[asked.name]
        assert measured.point == pytest.approx(scores.of(asked.name).mean)


def test_the_exact_examples_and_mtebs_own_result_are_kept(scored):
    home, dataset, _ = scored
    folder = home / FEW.name
    assert len(read_examples(folder, FEW.name)) == 2
    assert read_examples(home / ZERO.name, ZERO.name) == ()
    result = json.loads((folder / "mteb" / f"{FEW.name}.json").read_text())
    assert result["dataset_revision"] == f"local-{dataset.fingerprint}"
    assert result["model"]["experiment_kwargs"]["shots"] == 2


def test_the_reranker_finds_ranked_passages_with_their_relevance(scored):
    home, _, _ = scored
    rows = pq.read_table(home / FEW.name / "top_passages.parquet").to_pylist()
    assert len(rows) == 12 * 12
    of_one = [row for row in rows if row["query_id"] == "test-000000"]
    assert [row["rank"] for row in of_one] == list(range(12))
    assert [row["score"] for row in of_one] == sorted((row["score"] for row in of_one), reverse=True)
    assert sum(row["relevance"] for row in of_one) == 1


def test_the_same_score_gives_the_same_bytes_of_values(tmp_path, encoder):
    dataset, model = make_dataset(tmp_path / "data", "clustering"), opened(encoder, tmp_path)
    for name in ("one", "two"):
        score_folder(dataset, model, ZERO, tmp_path / name, config=CONFIG)
    first, second = ((tmp_path / name / "per_query.parquet").read_bytes() for name in ("one", "two"))
    assert first == second


@pytest.mark.parametrize("kind", ["reranking", "classification", "clustering", "sts", "pair_classification"])
def test_every_kind_leaves_a_readable_folder(kind, tmp_path, encoder):
    dataset, model = make_dataset(tmp_path / "data", kind), opened(encoder, tmp_path)
    pool = write_pool(tmp_path / "pool", dataset, PAIRS)
    score_folder(dataset, model, FEW, tmp_path / "out", config=CONFIG, pool=pool)
    scores = read_scores(tmp_path / "out")
    measured = read_measurements(tmp_path / "out", scores)[FEW.name]
    assert measured.point == pytest.approx(scores.of(FEW.name).mean)
    assert (tmp_path / "out" / "top_passages.parquet").exists() == (kind == "reranking")


def test_what_cannot_be_asked_says_why_and_loads_no_model(tmp_path, encoder):
    dataset, model = make_dataset(tmp_path / "data", "sts"), opened(encoder, tmp_path)
    pool = write_pool(tmp_path / "pool", make_dataset(tmp_path / "other", "retrieval"), PAIRS)
    del model.__dict__["encoder"]  # to ask for it would fail now: there is no model in this folder
    counts = score_folder(dataset, model, FEW, tmp_path / "out", config=CONFIG, pool=pool)
    assert "toy-sts" in counts["absent"][FEW.name]
    scores = read_scores(tmp_path / "out")
    assert not scores.results and scores.absent[0].reason == counts["absent"][FEW.name]
    assert read_measurements(tmp_path / "out", scores) == {}


def test_bm25_is_scored_by_the_same_metric_and_says_what_it_cannot_do(tmp_path):
    bm25(make_dataset(tmp_path / "data", "retrieval"), tmp_path / "out")
    scores = read_scores(tmp_path / "out")
    assert (scores.model, scores.metric, scores.results[0].setting) == ("bm25", "ndcg_at_10", "bm25")
    assert scores.results[0].mean == 1.0  # every query holds its passage's unique number
    assert "words" in scores.results[0].notes["method"].lower()
    counts = bm25(make_dataset(tmp_path / "sts", "sts"), tmp_path / "sts-out")
    assert "it cannot do sts" in counts["absent"]["bm25"]


def test_the_command_line_prints_scores_with_intervals(scored, tmp_path):
    from icl_embed.cli.evaluation import app

    home, _, _ = scored
    folders = [str(home / asked.name) for asked in (ZERO, FEW)]
    shown = CliRunner().invoke(app, ["show", *folders], env={"COLUMNS": "160"})
    assert shown.exit_code == 0
    assert "toy-retrieval" in shown.output
    assert "2-shot fixed" in shown.output
    missing = CliRunner().invoke(app, ["show", str(tmp_path)])
    assert isinstance(missing.exception, EvaluationError)
    assert "is not an evaluation's scores" in str(missing.exception)


def test_scores_of_another_shape_are_refused(tmp_path):
    for text in ("[]", "{", '{"results": [], "absent": []}', '{"results": [{"x": 1}], "absent": []}'):
        (tmp_path / "scores.json").write_text(text)
        with pytest.raises(EvaluationError, match="is not an evaluation's scores"):
            read_scores(tmp_path)


def chinese(folder, queries):
    cities = "北京 上海 广州 深圳 杭州 成都 武汉 西安".split()
    rows = [
        row("test", n, queries.format(city=city), positives=[f"{city}市场上苹果的价格为每公斤五元。"])
        for n, city in enumerate(cities)
    ]
    corpus = [(f"p{n}", "test", item["positives"][0]) for n, item in enumerate(rows)]
    return write_dataset(folder, "retrieval", rows, corpus)


def test_bm25_finds_words_in_scripts_without_spaces(tmp_path):
    counts = bm25(chinese(tmp_path / "data", "请问{city}的苹果多少钱？"), tmp_path / "out")
    assert counts["scores"] == {"bm25": 1.0}


def test_without_a_word_in_common_there_is_no_baseline(tmp_path, caplog):
    dataset = chinese(tmp_path / "data", "how much are they")
    counts = bm25(dataset, tmp_path / "out")
    scores = read_scores(tmp_path / "out")
    assert scores.results == () and counts["scores"] == {}
    (absence,) = scores.absent
    assert absence.setting == "bm25" and "none of the 8 queries has a word" in absence.reason
    assert absence.reason in caplog.text
    assert read_measurements(tmp_path / "out", scores) == {}


def test_queries_without_a_word_in_common_are_counted(tmp_path, caplog):
    rows = [
        row("test", 0, "red fish", positives=["a red fish"]),
        row("test", 1, "луна", positives=["the moon"]),
    ]
    corpus = [(f"p{n}", "test", item["positives"][0]) for n, item in enumerate(rows)]
    counts = bm25(write_dataset(tmp_path / "d", "retrieval", rows, corpus), tmp_path / "out")
    assert counts["scores"] == {"bm25": 0.5}
    assert "BM25: 1 of 2 queries have no word that any passage has" in caplog.text
