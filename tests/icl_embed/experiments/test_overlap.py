"""Overlap: against a slow search through all pairs of texts, and on what it must not miss or invent."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_embed.errors import DataError, StoreError
from icl_embed.experiments.overlap import (
    EvaluatedTexts,
    TrainingTexts,
    find_overlap,
    read_training_texts,
    relation_to,
    training_files,
)
from icl_embed.store import StageKey, Store


def training(*texts, dataset="news"):
    return TrainingTexts(dataset, pa.array(texts, pa.string()), len(texts))


def runs(text, size):
    words = text.lower().split()
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


TEXTS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=6).map(" ".join), max_size=8)


@given(TEXTS, TEXTS, TEXTS)
def test_both_nets_agree_with_a_search_through_all_pairs(evaluated, first, second):
    size = 3
    evaluated = sorted(set(evaluated))
    parts = [training(*first, dataset="one"), training(*second, dataset="two")]
    [found], _ = find_overlap([EvaluatedTexts("task", "queries", tuple(evaluated))], parts, ngram=size)
    everything = [*first, *second]
    assert found.num_texts == len(evaluated)
    assert found.num_equal == sum(text in everything for text in evaluated)
    assert found.num_long == sum(len(text.split()) >= size for text in evaluated)
    shares = [any(runs(text, size) & runs(other, size) for other in everything) for text in evaluated]
    assert found.num_shared == sum(shares)
    by_dataset = {"one": sum(t in first for t in evaluated), "two": sum(t in second for t in evaluated)}
    assert found.equal_by_dataset == {name: count for name, count in by_dataset.items() if count}
    for hit in found.hits:
        assert hit.training in {"one": first, "two": second}[hit.dataset]
        if hit.net == "equal":
            assert hit.evaluated == hit.training
        else:
            assert runs(hit.evaluated, size) & runs(hit.training, size)


def test_equality_forgets_case_and_white_space_but_not_punctuation():
    texts = ("What  is C++?", "what is c?")
    [found], _ = find_overlap([EvaluatedTexts("task", "queries", texts)], [training("WHAT is\nC++? ")])
    assert (found.num_equal, found.hits[0].evaluated) == (1, texts[0])


def test_a_sentence_inside_a_longer_passage_is_found_by_its_words_alone():
    sentence = "the quick brown fox jumps over the lazy dog near the old mill"
    [found], _ = find_overlap(
        [EvaluatedTexts("task", "passages", (sentence, "short one"))],
        [training(f"Yesterday, {sentence.title().replace(' ', ', ')} and then slept.")],
    )
    assert (found.num_equal, found.num_shared, found.num_long) == (0, 1, 1)
    assert found.hits[0].net == "n-gram"


def test_sets_and_roles_are_counted_apart_though_they_share_texts():
    evaluated = [
        EvaluatedTexts("first", "queries", ("alpha", "beta")),
        EvaluatedTexts("first", "passages", ("alpha", "")),
        EvaluatedTexts("second", "queries", ("gamma", "gamma")),
    ]
    found, rows = find_overlap(evaluated, [training("alpha", "x"), training("y")])
    assert [(one.num_texts, one.num_equal) for one in found] == [(2, 1), (1, 1), (1, 0)]
    assert rows == {"news": 3}


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_training_rows_are_read_by_data_set_with_their_lists(tmp_path):
    path = write(
        tmp_path / "train.parquet",
        dataset=["a", "a", "b"],
        query=["q1", "q1", "q3"],
        positive=["p1", None, "p3"],
        negatives=[["n1", "p1"], [], None],
        weight=[1.0, 1.0, 1.0],
    )
    for place in (path, tmp_path):
        parts = {part.dataset: (part.texts.to_pylist(), part.rows) for part in read_training_texts(place)}
        assert parts == {"a": (["q1", "p1", "n1"], 2), "b": (["q3", "p3"], 1)}


def test_a_file_without_texts_or_that_is_no_parquet_is_refused(tmp_path):
    with pytest.raises(DataError, match="no column of texts"):
        list(read_training_texts(write(tmp_path / "numbers.parquet", number=[1])))
    with pytest.raises(DataError, match="texts or lists of texts"):
        list(read_training_texts(write(tmp_path / "ids.parquet", query=[1])))
    (tmp_path / "broken.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match="cannot read"):
        list(read_training_texts(tmp_path / "broken.parquet"))


def test_lineage_leads_from_an_embedder_to_its_training_rows(tmp_path):
    store = Store(tmp_path)

    def rows(folder):
        write(folder / "train.parquet", query=["q"])
        return {}

    pool = store.build(StageKey("pool", 1, {}), rows)
    negatives = store.build(StageKey("negatives", 1, {}, {"pool": pool.reference}), rows)
    base = store.build(StageKey("base-model", 1, {}), lambda _: {})
    inputs = {"base-model": base.reference, "negatives": negatives.reference}
    embedder = store.build(StageKey("embedder", 1, {}, inputs), lambda _: {})
    assert training_files(store, embedder) == [negatives.path / "train.parquet"]
    with pytest.raises(StoreError, match="--train"):
        training_files(store, base)


@pytest.mark.parametrize(
    ("task", "trained", "relation"),
    [
        ("Banking77Classification", ["banking77", "sts12"], ("trained on", ["banking77"])),
        ("STS13", ["sts12", "banking77"], ("family trained on", ["sts12"])),
        ("STSBenchmark", ["sts-benchmark"], ("trained on", ["sts-benchmark"])),
        ("SciFact", ["icd10-terms", "trivia-answers"], ("unseen", [])),
        ("TwentyNewsgroupsClustering.v2", ["twenty_newsgroups"], ("trained on", ["twenty_newsgroups"])),
        ("icd10-pairs", ["icd10-terms"], ("family trained on", ["icd10-terms"])),
    ],
)
def test_names_tell_same_set_family_and_unseen(task, trained, relation):
    assert relation_to(task, trained) == relation
