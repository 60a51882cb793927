"""mteb's scores on our data, against slow obvious references, and every value behind them."""

import math
import warnings

import numpy as np
import pytest

from icl_embed.config import EvaluateConfig
from icl_embed.errors import EvaluationError
from icl_embed.evaluation.measurement import Bootstrap, compare
from icl_embed.evaluation.tasks.rows import read_task_data
from icl_embed.examples import Example
from icl_embed.model.cached_encoding import CachingEncoder, Setting
from tests.icl_embed.evaluation.folders import HashEncoder, make_dataset, row, sentence, write_dataset

KINDS = ("retrieval", "reranking", "classification", "clustering", "sts", "pair_classification")
CONFIG = EvaluateConfig(label_experiments=3, cluster_sets=4)
ZERO = Setting("zero-shot", "find the similar text")
FEW = Setting("few-shot", "find the similar text", (Example("q", "r"), Example("s", "t")))


def run(dataset, encoder, setting=ZERO, cached=None):
    from icl_embed.evaluation.mteb.run import run_encoder

    return run_encoder(
        dataset,
        read_task_data(dataset),
        cached or CachingEncoder(encoder),
        setting,
        model_name="toy",
        model_fingerprint="abc",
        config=CONFIG,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_values_of_every_kind_aggregate_to_mtebs_main_score(kind, tmp_path, encoder):
    outcome = run(make_dataset(tmp_path, kind), encoder)
    assert outcome.measurement.point == pytest.approx(outcome.main_score, abs=6e-6)
    interval = outcome.measurement.interval(Bootstrap(200))
    assert interval.low <= interval.mean <= interval.high
    assert -1 <= interval.low <= interval.high <= 1


def test_ndcg_per_query_is_the_textbook_value(tmp_path, encoder):
    dataset = make_dataset(tmp_path, "retrieval")
    data = read_task_data(dataset)
    queries = encoder.encode_queries(list(data.queries.values()), instruction="")
    scores = queries @ encoder.encode_passages(list(data.passages.values())).T
    names = list(data.passages)
    for query, line, value in zip(
        data.queries, scores, run(dataset, encoder).measurement.values, strict=True
    ):
        ranked = [names[column] for column in np.argsort(-line)]
        place = ranked.index(data.relevant[query][0])
        expected = 1 / math.log2(place + 2) if place < 10 else 0.0
        assert value == pytest.approx(expected)


def test_accuracy_per_text_is_the_share_of_classifiers_that_get_it_right(tmp_path, encoder):
    outcome = run(make_dataset(tmp_path, "classification"), encoder)
    assert outcome.notes == {"classifiers": 3, "texts_per_label": 8, "labels": 3}
    assert {round(3 * value) / 3 for value in outcome.measurement.values} == set(outcome.measurement.values)


def test_what_sklearn_warns_of_is_one_line(tmp_path, encoder, caplog):
    rows = [
        row(split, n, sentence(n + start), label=f"label {n % 12}")
        for split, start, size in (("train", 0, 24), ("test", 900, 4))
        for n in range(size)
    ]
    dataset = write_dataset(tmp_path, "classification", rows, name="many-labels")  # most are never predicted
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        for _ in range(2):
            run(dataset, encoder)
    assert [one for one in shown if one.category.__name__ == "UndefinedMetricWarning"] == []
    told = [record.message for record in caplog.records if "UndefinedMetricWarning" in record.message]
    assert len(told) == 1 and told[0].startswith("many-labels: ") and "\n" not in told[0]


def test_clustering_uses_every_text_and_pairs_the_sets_of_two_settings(tmp_path, encoder):
    dataset = make_dataset(tmp_path, "clustering")
    first, again = run(dataset, encoder), run(dataset, encoder)
    assert first.measurement.values == again.measurement.values  # a fresh task draws the same sets
    assert sum(kind == "query" for kind, _, _ in encoder.seen) == 48  # 24 texts, twice
    difference = compare(first.measurement, run(dataset, encoder, FEW).measurement, Bootstrap(50))
    assert difference.low <= difference.mean <= difference.high


def test_settings_share_passage_vectors_but_not_query_vectors(tmp_path, encoder):
    dataset = make_dataset(tmp_path, "retrieval")
    cached = CachingEncoder(encoder)
    for setting in (ZERO, FEW, ZERO):
        run(dataset, encoder, setting, cached)
    assert len(encoder.seen) == len(set(encoder.seen))
    roles = [(kind, shots) for kind, shots, _ in encoder.seen]
    assert {role: roles.count(role) for role in roles} == {
        ("query", 0): 24,
        ("passage", 0): 24,
        ("query", 2): 24,
    }


def test_both_sides_of_a_symmetric_task_are_queries(tmp_path, encoder):
    run(make_dataset(tmp_path, "sts"), encoder, FEW)
    assert {(kind, shots) for kind, shots, _ in encoder.seen} == {("query", 2)}


def test_identity_separates_checkpoints_shots_and_examples(tmp_path, encoder):
    from icl_embed.evaluation.mteb.run import describe_model

    other = Setting("few-shot", FEW.instruction, FEW.examples[::-1])
    metas = [
        describe_model("toy", fingerprint, setting, dimension=8)
        for fingerprint in ("abc", "def")
        for setting in (ZERO, FEW, other)
    ]
    assert len({(meta.revision, str(meta.experiment_kwargs)) for meta in metas}) == 6
    assert {meta.experiment_kwargs["shots"] for meta in metas} == {0, 2}


def test_the_task_says_that_it_is_local(tmp_path):
    from icl_embed.evaluation.mteb.local_tasks import describe_task

    dataset = make_dataset(tmp_path, "sts")
    metadata = describe_task(dataset)
    assert metadata.dataset == {"path": "icl-embed/toy-sts", "revision": "local-0123456789abcdef"}
    assert (metadata.license, metadata.reference, metadata.main_score) == (
        "not specified",
        None,
        "cosine_spearman",
    )


class Broken(HashEncoder):
    """Returns what a broken model returns."""

    fill = float("nan")

    def _vectors(self, texts, salt):
        vectors = super()._vectors(texts, salt)
        vectors[-1] = self.fill
        return vectors


def test_a_vector_that_is_not_finite_is_refused_with_its_text(tmp_path, prompts):
    with pytest.raises(EvaluationError, match=r"the vector of '.*' is not finite \(1 of"):
        run(make_dataset(tmp_path, "sts"), Broken(prompts))


def test_a_vector_of_length_zero_is_refused(tmp_path, prompts):
    broken = Broken(prompts)
    broken.fill = 0.0
    with pytest.raises(EvaluationError, match="is zero and has no direction"):
        run(make_dataset(tmp_path, "retrieval"), broken)


def test_vectors_of_the_wrong_shape_are_refused(tmp_path, encoder):
    encoder.dimension = 48
    encoder._vectors = lambda texts, salt: np.ones((len(texts), 7), np.float32)
    with pytest.raises(EvaluationError, match="expected vectors of shape"):
        run(make_dataset(tmp_path, "sts"), encoder)


def test_bm25_finds_exact_words_and_survives_a_query_of_unknown_words(tmp_path):
    from icl_embed.evaluation.mteb.run import run_bm25

    texts = ["red fish swims", "blue bird flies", "green tree grows", "small stone rests"]
    rows = [
        row("test", 0, "a bird that flies", positives=[texts[1]]),
        row("test", 1, "zyx", positives=[texts[0]]),
    ]
    dataset = write_dataset(
        tmp_path, "retrieval", rows, [(f"p{n}", "all", text) for n, text in enumerate(texts)]
    )
    outcome = run_bm25(dataset, read_task_data(dataset), version="1", config=CONFIG)
    assert outcome.measurement.values == (1.0, 0.0)
    assert list(outcome.ranking["test-000000"]) == ["p1"]


def test_bm25_reranks_only_the_candidates(tmp_path):
    from icl_embed.evaluation.mteb.run import run_bm25

    dataset = make_dataset(tmp_path, "reranking")
    data = read_task_data(dataset)
    outcome = run_bm25(dataset, data, version="1", config=CONFIG)
    assert all(set(outcome.ranking[name]) == set(data.candidates[name]) for name in data.queries)
    assert 0 < outcome.main_score <= 1
