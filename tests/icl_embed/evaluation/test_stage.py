"""The evaluation stage end to end: a real tiny model, and what lies in the folder afterwards."""

import json

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from icl_embed.config import EvaluateConfig
from icl_embed.errors import EvaluationError
from icl_embed.evaluation.scores import read_examples, read_measurements, read_scores
from icl_embed.evaluation.stage import evaluate_bm25, evaluate_encoder, evaluate_model
from icl_embed.evaluation.tasks.task import EvaluatedModel
from tests.icl_embed.evaluation.folders import make_dataset, row, write_dataset, write_pool

CONFIG = EvaluateConfig(shots=2, label_experiments=2, cluster_sets=4, bootstrap_resamples=200)
PAIRS = [("red fish", "a fish that is red"), ("big moon", "the moon is big"), ("old tree", "a tree of age")]


def evaluate(tmp_path, dataset, encoder, **more):
    model = EvaluatedModel("toy", "abc", tmp_path)
    settings = {"model": model, "pool_dir": None, "seed": 1} | more
    return evaluate_encoder(dataset, encoder, CONFIG, tmp_path / "out", **settings)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_model):
    """One retrieval evaluation of a real tiny model, with its pool and folders."""
    home = tmp_path_factory.mktemp("evaluated")
    dataset = make_dataset(home / "data", "retrieval", size=12)
    pool = write_pool(home / "pool", dataset, PAIRS)
    model = EvaluatedModel("tiny", "0011223344556677", tiny_model, device="cpu", dtype="float32")
    counts = evaluate_model(dataset, model, CONFIG, home / "out", pool_dir=pool, seed=1)
    return home / "out", dataset, counts


def test_scores_hold_both_settings_with_intervals_tokens_and_seconds(evaluated):
    folder, dataset, counts = evaluated
    scores = read_scores(folder)
    assert (scores.dataset, scores.metric, scores.trained_on) == (dataset.name, "ndcg_at_10", False)
    zero, few = scores.results
    assert (zero.setting, zero.shots, few.setting, few.shots) == ("zero-shot", 0, "few-shot", 2)
    assert few.query_tokens_mean > zero.query_tokens_mean + 10
    for result in scores.results:
        assert 0 <= result.low <= result.mean <= result.high <= 1
        assert result.num_queries == result.encoded_queries == 12
        assert result.query_seconds > 0
    assert zero.passage_seconds > 0
    assert few.passage_seconds == 0  # the passages were encoded for the first setting
    assert counts["queries"] == 12
    assert counts["scores"] == {"zero-shot": round(zero.mean, 4), "few-shot": round(few.mean, 4)}


def test_the_values_behind_the_scores_can_be_read_back(evaluated):
    folder, _, _ = evaluated
    scores = read_scores(folder)
    for setting, measured in read_measurements(folder, scores).items():
        assert measured.point == pytest.approx(scores.of(setting).mean)


def test_the_exact_examples_and_mtebs_own_result_are_kept(evaluated):
    folder, dataset, _ = evaluated
    assert len(read_examples(folder)) == 2
    assert read_examples(folder, "zero-shot") == ()
    result = json.loads((folder / "mteb" / "few-shot.json").read_text())
    assert result["dataset_revision"] == f"local-{dataset.fingerprint}"
    assert result["model"]["revision"] == "0011223344556677"
    assert result["model"]["experiment_kwargs"]["shots"] == 2
    assert {path.name for path in (folder / "mteb").iterdir()} == {"zero-shot.json", "few-shot.json"}


def test_the_reranker_finds_ranked_passages_with_their_relevance(evaluated):
    folder, _, _ = evaluated
    rows = pq.read_table(folder / "top_passages.parquet").to_pylist()
    assert len(rows) == 12 * 12
    of_one = [row for row in rows if row["query_id"] == "test-000000"]
    assert [row["rank"] for row in of_one] == list(range(12))
    assert [row["score"] for row in of_one] == sorted((row["score"] for row in of_one), reverse=True)
    assert sum(row["relevance"] for row in of_one) == 1


def test_the_same_evaluation_gives_the_same_bytes_of_values(tmp_path, encoder):
    dataset = make_dataset(tmp_path / "data", "clustering")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        evaluate(tmp_path / name, dataset, encoder)
    first, second = ((tmp_path / name / "out" / "per_query.parquet").read_bytes() for name in ("one", "two"))
    assert first == second


@pytest.mark.parametrize("kind", ["reranking", "classification", "clustering", "sts", "pair_classification"])
def test_every_kind_leaves_a_readable_folder(kind, tmp_path, encoder):
    dataset = make_dataset(tmp_path / "data", kind)
    evaluate(tmp_path, dataset, encoder, pool_dir=write_pool(tmp_path / "pool", dataset, PAIRS))
    scores = read_scores(tmp_path / "out")
    assert [result.setting for result in scores.results] == ["zero-shot", "few-shot"]
    measurements = read_measurements(tmp_path / "out", scores)
    assert measurements["few-shot"].point == pytest.approx(scores.of("few-shot").mean)
    assert (tmp_path / "out" / "top_passages.parquet").exists() == (kind == "reranking")


def test_a_task_without_examples_is_evaluated_zero_shot_and_says_so(tmp_path, encoder):
    dataset = make_dataset(tmp_path / "data", "sts")
    counts = evaluate(tmp_path, dataset, encoder)
    assert counts["absent"] == {"few-shot": "no example pool was given"}
    assert [result.setting for result in read_scores(tmp_path / "out").results] == ["zero-shot"]


def test_required_few_shot_without_examples_is_an_error_before_any_work(tmp_path, encoder):
    dataset = make_dataset(tmp_path / "data", "sts")
    with pytest.raises(EvaluationError, match="few-shot evaluation is required, but no example pool"):
        evaluate(tmp_path, dataset, encoder, require_few_shot=True)
    assert encoder.seen == []
    assert not (tmp_path / "out").exists()


def test_bm25_is_scored_by_the_same_metric_and_refuses_what_it_cannot_do(tmp_path):
    dataset = make_dataset(tmp_path / "data", "retrieval")
    evaluate_bm25(dataset, CONFIG, tmp_path / "out", seed=1)
    scores = read_scores(tmp_path / "out")
    assert (scores.model, scores.metric, scores.results[0].setting) == ("bm25", "ndcg_at_10", "bm25")
    assert scores.results[0].mean == 1.0  # every query holds its passage's unique number
    with pytest.raises(EvaluationError, match="it cannot do sts"):
        evaluate_bm25(make_dataset(tmp_path / "sts", "sts"), CONFIG, tmp_path / "sts-out", seed=1)


def test_progress_names_the_model_the_data_set_and_the_setting(tmp_path, encoder):
    seen = []
    evaluate(tmp_path, make_dataset(tmp_path / "data", "sts"), encoder, progress=seen.append)
    assert seen == ["toy on toy-sts, zero-shot"]


def test_the_command_line_prints_scores_with_intervals(evaluated, tmp_path):
    from icl_embed.cli.evaluation import app

    folder, _, _ = evaluated
    shown = CliRunner().invoke(app, ["show", str(folder)], env={"COLUMNS": "160"})
    assert shown.exit_code == 0
    assert "toy-retrieval" in shown.output
    assert "few-shot (2)" in shown.output
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
    counts = evaluate_bm25(
        chinese(tmp_path / "data", "请问{city}的苹果多少钱？"), CONFIG, tmp_path / "out", seed=1
    )
    assert counts["scores"] == {"bm25": 1.0}


def test_without_a_word_in_common_there_is_no_baseline(tmp_path, caplog):
    dataset = chinese(tmp_path / "data", "how much are they")
    counts = evaluate_bm25(dataset, CONFIG, tmp_path / "out", seed=1)
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
    counts = evaluate_bm25(
        write_dataset(tmp_path / "d", "retrieval", rows, corpus), CONFIG, tmp_path / "out", seed=1
    )
    assert counts["scores"] == {"bm25": 0.5}
    assert "BM25: 1 of 2 queries have no word that any passage has" in caplog.text
