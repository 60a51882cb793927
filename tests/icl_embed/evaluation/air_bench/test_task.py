"""An AIR-Bench task behind the protocol of benchmarks, first stage and second."""

import numpy as np
import pytest

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.air_bench.data import write_task
from icl_embed.evaluation.air_bench.names import TaskName
from icl_embed.evaluation.air_bench.task import open_air_bench_task
from icl_embed.evaluation.measurement import Bootstrap
from icl_embed.evaluation.reranking import rerank
from icl_embed.evaluation.tasks.task import BenchmarkTask, EvaluatedModel, TaskRun, Unjudged
from icl_embed.model.cached_encoding import CachingEncoder, Setting
from tests.icl_embed.evaluation.air_bench.conftest import OWN
from tests.icl_embed.evaluation.folders import sentence

ZERO = Setting("zero-shot", "find")


class BySharedWords:
    """A scorer: how many words query and passage share."""

    def score(self, pairs):
        return [float(len(set(query.split()) & set(passage.split()))) for query, passage in pairs]


class Fixed:
    def __init__(self, *values):
        self.values = values

    def score(self, pairs):
        return np.array(self.values)


@pytest.fixture
def model(tmp_path):
    return EvaluatedModel("toy", "0123456789abcdef", tmp_path)


def as_benchmark_task(task: BenchmarkTask) -> BenchmarkTask:
    return task


def test_a_judged_split_gives_a_score_with_its_values(mirror, encoder, model):
    task = as_benchmark_task(open_air_bench_task(OWN, folder=mirror))
    run = task.run(CachingEncoder(encoder), ZERO, model)
    assert isinstance(run, TaskRun)
    assert run.measurement.point == pytest.approx(run.main_score, abs=6e-6)
    assert len(run.measurement.ids) == 12 and run.measurement.dataset == task.facts.name
    assert run.result["metrics"]["ndcg_at_10"] == run.main_score
    interval = run.measurement.interval(Bootstrap(200))
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1


def test_the_facts_name_the_task_and_its_data(mirror):
    facts = open_air_bench_task(OWN, folder=mirror).facts
    assert (facts.name, facts.family, facts.kind) == ("qa_healthcare_toy_en", "air-bench", "retrieval")
    assert (facts.metric, facts.split, facts.subset) == ("ndcg_at_10", "dev", "AIR-Bench_24.05")
    assert facts.language == "eng-Latn" and facts.served_from.startswith("mirror")
    assert (
        facts.data_fingerprint != open_air_bench_task(OWN, folder=mirror, split="test").facts.data_fingerprint
    )


def test_long_documents_are_judged_by_recall(tmp_path, toy, encoder, model):
    name = TaskName.parse("long-doc_book_toy_en")
    write_task(tmp_path, name, "dev", **toy)
    task = open_air_bench_task(name.full, folder=tmp_path)
    run = task.run(CachingEncoder(encoder), ZERO, model)
    first = task.data.relevance["q000"]
    found = list(run.ranking["q000"])[:10]
    expected = sum(first.get(passage, 0) > 0 for passage in found) / 2
    assert task.facts.metric == "recall_at_10" and run.measurement.values[0] == pytest.approx(expected)


def test_a_split_without_judgements_gives_a_ranking_to_submit(mirror, encoder, model):
    task = open_air_bench_task(OWN, folder=mirror, split="test")
    run = task.run(CachingEncoder(encoder), ZERO, model)
    assert isinstance(run, Unjudged)
    assert list(run.ranking) == [f"t{n}" for n in range(5)]
    assert all(len(found) == 24 for found in run.ranking.values())
    assert run.notes == {"passages": 24, "top_k": 1000}
    with pytest.raises(EvaluationError, match="not public"):
        task.run_bm25()


def test_judgements_that_someone_has_are_used(mirror, toy, encoder, model):
    write_task(mirror, TaskName.parse(OWN), "test", **toy)
    run = open_air_bench_task(OWN, folder=mirror, split="test").run(CachingEncoder(encoder), ZERO, model)
    assert isinstance(run, TaskRun)


def test_bm25_is_scored_in_english_alone(mirror, tmp_path, toy):
    task = open_air_bench_task(OWN, folder=mirror)
    run = task.run_bm25()
    assert run.main_score > 0.5  # a query is made of the words of its passage
    name = TaskName.parse("qa_wiki_toy_zh")
    write_task(tmp_path, name, "dev", **toy)
    with pytest.raises(EvaluationError, match="English"):
        open_air_bench_task(name.full, folder=tmp_path).run_bm25()


def test_no_example_comes_from_the_evaluated_split(mirror):
    task = open_air_bench_task(OWN, folder=mirror)
    assert task.training_examples() == ()
    assert set(task.query_texts()) <= task.evaluated_texts()
    assert sentence(1) in task.evaluated_texts() and sentence(7) in task.evaluated_texts()


def test_dev_serves_test_with_its_best_passages_and_without_what_is_evaluated(mirror, toy):
    test = {"t1": sentence(50, 4), "t2": toy["queries"]["q004"].upper()}
    write_task(mirror, TaskName.parse(OWN), "test", passages=toy["passages"], queries=test, relevance=None)
    task = open_air_bench_task(OWN, folder=mirror, split="test")
    examples = [candidate.example for candidate in task.training_examples()]
    assert len(examples) == 11  # q004 is asked in the test split, in capitals
    assert (examples[0].query, examples[0].response) == (toy["queries"]["q000"], toy["passages"]["p000"])
    assert task.evaluated_texts() == set(test.values())


def test_a_test_split_without_a_dev_split_has_no_examples(tmp_path, toy):
    queries = {"t": sentence(1, 3)}
    write_task(
        tmp_path, TaskName.parse(OWN), "test", passages=toy["passages"], queries=queries, relevance=None
    )
    assert open_air_bench_task(OWN, folder=tmp_path, split="test").training_examples() == ()


def test_reranking_rescores_the_first_passages_and_drops_the_rest(mirror, encoder, model):
    task = open_air_bench_task(OWN, folder=mirror)
    before = task.run(CachingEncoder(encoder), ZERO, model)
    queries, passages = task.data.queries, task.data.passages
    ranking = rerank(before.ranking, BySharedWords(), queries=queries, passages=passages, top_k=10)
    for query, found in ranking.items():
        assert set(found) == set(list(before.ranking[query])[:10])
        for passage, score in found.items():
            assert score == len(set(queries[query].split()) & set(passages[passage].split()))
        assert list(found.values()) == sorted(found.values(), reverse=True)
    values = task.measure(ranking).measurement.values
    assert values != before.measurement.values and all(0 <= value <= 1 for value in values)


def test_a_reranker_that_knows_the_grades_reaches_the_best_score(mirror, encoder, model):
    task = open_air_bench_task(OWN, folder=mirror)
    data = task.data
    grades = {
        (data.queries[query], data.passages[passage]): grade
        for query, judged in data.relevance.items()
        for passage, grade in judged.items()
    }

    class Knowing:
        def score(self, pairs):
            return [grades.get(pair, -1) for pair in pairs]

    before = task.run(CachingEncoder(encoder), ZERO, model)
    ranking = rerank(before.ranking, Knowing(), queries=data.queries, passages=data.passages)
    assert before.main_score < 1 and task.measure(ranking).main_score == 1


def test_reranking_keeps_the_first_stages_order_among_equals():
    ranking = {"q": {"b": 0.1, "a": 0.9, "c": 0.5}}
    texts = {"a": "x", "b": "y", "c": "z"}
    assert list(rerank(ranking, Fixed(1, 1, 1), queries={"q": "x"}, passages=texts)["q"]) == ["a", "c", "b"]


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (Fixed(1.0), r"shape \(1,\) for 2 pairs"),
        (Fixed(1.0, float("nan")), "score for .*is nan"),
        (Fixed(1.0, float("inf")), "is inf"),
    ],
)
def test_a_scorer_that_cannot_be_trusted_is_refused(scorer, message):
    texts = {"a": "x", "b": "y"}
    with pytest.raises(EvaluationError, match=message):
        rerank({"q": {"a": 1.0, "b": 0.5}}, scorer, queries={"q": "x"}, passages=texts)
    with pytest.raises(EvaluationError, match="unknown"):
        rerank({"q": {"zz": 1.0}}, scorer, queries={"q": "x"}, passages=texts)
    with pytest.raises(EvaluationError, match="at least 1"):
        rerank({"q": {"a": 1.0}}, scorer, queries={"q": "x"}, passages=texts, top_k=0)


def test_a_vector_that_is_not_finite_stops_the_run(mirror, encoder, model, monkeypatch):
    encode = encoder.encode_passages

    def broken(texts, **options):
        vectors = encode(texts, **options)
        vectors[3] = np.nan
        return vectors

    monkeypatch.setattr(encoder, "encode_passages", broken)
    with pytest.raises(EvaluationError, match="is not finite"):
        open_air_bench_task(OWN, folder=mirror).run(CachingEncoder(encoder), ZERO, model)
