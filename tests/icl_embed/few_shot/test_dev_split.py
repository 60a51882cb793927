"""The development split: from the training side alone, and strictly apart from the candidates."""

import shutil

import pytest

from icl_embed.config import EvaluateConfig, SelectionConfig
from icl_embed.errors import PoolError
from icl_embed.evaluation.tasks.rows import LabelData, SearchData, query_texts
from icl_embed.evaluation.trials import Workbench, count_queries, first_queries, split_training_side
from icl_embed.pool.database import DATABASE_NAME, open_for_build
from icl_embed.pool.examples import TrainingRow, TrainingSide, read_training_side
from tests.icl_embed.few_shot.tasks import LABELS

TASKS = ("answers", "ranks", "labels", "groups", "scores")
CONFIG = EvaluateConfig(
    shots=2, label_experiments=2, cluster_sets=3, selection=SelectionConfig(dev_queries=10)
)


def side_of(rows, kind="retrieval"):
    return TrainingSide("toy", kind, "find it", tuple(rows))


def answered(number, *positives):
    return TrainingRow(f"train-{number:03d}", f"question {number}", positives, (), None)


@pytest.mark.parametrize("task", TASKS)
def test_candidates_search_and_check_queries_are_disjoint(pool, encoder, task):
    bench = Workbench.prepare(pool, task, encoder, CONFIG, seed=3)
    shown = {row.example.query for row in bench.candidates.rows}
    search, check = set(query_texts(bench.split.search)), set(query_texts(bench.split.check))
    assert all(8 <= count_queries(part) <= 10 for part in (bench.split.search, bench.split.check))
    assert len(shown) > CONFIG.shots
    assert not shown & search and not shown & check and not search & check
    if bench.task.kind not in ("classification", "clustering"):
        answers = {row.example.response for row in bench.candidates.rows}
        assert not answers & bench.split.texts
    if isinstance(bench.split.search, LabelData):
        assert not shown & set(bench.split.search.train_texts)


@pytest.mark.parametrize("task", TASKS)
def test_the_split_is_a_pure_function_of_the_seed(pool, task):
    side = read_training_side(pool, task)
    first, same, other = (split_training_side(side, max_queries=10, seed=seed) for seed in (1, 1, 2))
    assert first == same
    assert query_texts(first.search) != query_texts(other.search)


def test_rows_that_share_an_answer_lie_on_one_side():
    side = side_of(answered(n, f"answer {n % 15}", f"answer {(n % 15) + 15}") for n in range(90))
    split = split_training_side(side, max_queries=20, seed=0)
    queries = {**split.search.queries, **split.check.queries}
    families = {int(name[-3:]) % 15 for name in queries}
    assert len(queries) == 6 * len(families)  # a family is taken whole
    assert {f"answer {n}" for n in families} <= split.texts


def test_answers_that_connect_everything_leave_nothing_to_choose_from():
    side = side_of(answered(n, f"answer {n}", f"answer {n + 1}") for n in range(60))
    with pytest.raises(PoolError, match="development split of 0 queries"):
        split_training_side(side, max_queries=10, seed=0)


def test_a_retrieval_query_searches_the_positives_of_the_whole_training_side(pool):
    side = read_training_side(pool, "answers")
    data = split_training_side(side, max_queries=10, seed=0).search
    assert isinstance(data, SearchData)
    assert set(data.passages.values()) == {text for row in side.rows for text in row.positives}
    row = next(row for row in side.rows if row.row_id in data.queries)
    assert [data.passages[name] for name in data.relevant[row.row_id]] == list(row.positives)


def test_a_reranking_query_ranks_its_own_negatives(pool):
    side = read_training_side(pool, "ranks")
    data = split_training_side(side, max_queries=10, seed=0).search
    for row in side.rows:
        if row.row_id in data.queries:
            ranked = {data.passages[name] for name in data.candidates[row.row_id]}
            assert ranked == {*row.positives, *row.negatives}


def test_classifiers_are_fitted_on_every_label(pool):
    data = split_training_side(read_training_side(pool, "labels"), max_queries=10, seed=0).search
    assert set(data.train_labels) == set(LABELS)
    assert max(data.train_labels.count(label) for label in LABELS) <= 16


def test_a_rare_label_keeps_its_share_of_the_queries():
    rows = [
        TrainingRow(f"{n:04d}", f"text {n}", ("rare" if n % 10 == 0 else "common",), (), None)
        for n in range(1500)
    ]
    for seed in range(3):
        split = split_training_side(side_of(rows, "classification"), max_queries=100, seed=seed)
        assert 4 <= split.search.labels.count("rare") <= 17
        assert 4 <= split.check.labels.count("rare") <= 17
        assert split.search.train_labels.count("rare") == split.search.train_labels.count("common") == 16


@pytest.mark.parametrize("task", TASKS)
def test_the_first_queries_are_asked_as_before(pool, task):
    whole = split_training_side(read_training_side(pool, task), max_queries=10, seed=0).search
    part = first_queries(whole, 4)
    assert count_queries(part) == 4
    assert query_texts(part)[:4] == query_texts(whole)[:4]


def test_too_few_rows_are_refused_with_what_to_do():
    with pytest.raises(PoolError, match="12 training rows .* use another strategy"):
        split_training_side(side_of(answered(n, f"answer {n}") for n in range(12)), max_queries=50, seed=0)
    one_label = side_of(
        (TrainingRow(f"{n}", f"text {n}", ("same",), (), None) for n in range(60)), "clustering"
    )
    with pytest.raises(PoolError, match="with one label or score"):
        split_training_side(one_label, max_queries=10, seed=0)


def test_more_shots_than_candidates_are_refused(pool, encoder):
    config = EvaluateConfig(shots=75, selection=SelectionConfig(dev_queries=10))
    with pytest.raises(PoolError, match="nothing to choose for 75 shots"):
        Workbench.prepare(pool, "answers", encoder, config, seed=0)


@pytest.mark.parametrize(
    "damage",
    [
        "INSERT INTO evaluation_texts SELECT dataset, 'test', 'query', query_id FROM pairs WHERE dataset = 'answers'",
        "INSERT INTO evaluation_texts SELECT dataset, 'test', 'positive', positive_id FROM pairs WHERE dataset = 'answers'",
        "UPDATE splits SET split = 'test' WHERE dataset = 'answers' AND row_id = 'train-000007'",
    ],
    ids=["a test query", "a test passage", "a test row"],
)
def test_a_pool_that_holds_test_text_among_its_training_rows_is_refused(pool, tmp_path, damage):
    shutil.copytree(pool, tmp_path / "pool")
    with open_for_build(tmp_path / "pool" / DATABASE_NAME) as connection:
        connection.execute(damage)
    with pytest.raises(PoolError, match="not of the train split or shows an evaluated text"):
        read_training_side(tmp_path / "pool", "answers")


def test_an_unknown_task_is_refused(pool):
    with pytest.raises(PoolError, match="has no data set 'answer'"):
        read_training_side(pool, "answer")
