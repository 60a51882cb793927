"""Mirrors that are damaged or lie: every one is refused, with what was expected and what was found."""

import gzip
import json

import pytest

from icl_embed.errors import DataError, EvaluationError, IclEmbedError, MissingTaskError, SourceError
from icl_embed.evaluation.mteb.mirror import read_manifest
from icl_embed.evaluation.mteb.opening import open_mteb_task
from tests.icl_embed.evaluation.mteb.mirrors import TASKS, rewrite, write_set


def refused(mirror, kind, match, error=DataError, **asked):
    with pytest.raises(error, match=match) as caught:
        open_mteb_task(TASKS[kind], mirror=mirror, **asked)
    assert isinstance(caught.value, IclEmbedError)


def plain(mirror, kind):
    return write_set(mirror, kind, zipped=False)


def manifest_with(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_wrong_row_count_is_told_with_both_numbers(tmp_path):
    folder = plain(tmp_path, "sts")
    manifest_with(folder, files={"test.jsonl.gz": {"rows": 25}})
    refused(tmp_path, "sts", "has 24 rows, its manifest promises 25")


@pytest.mark.parametrize("zipped", [True, False])
def test_changed_bytes_are_told_by_their_hash(zipped, tmp_path):
    folder = write_set(tmp_path, "sts", zipped=zipped)
    path = folder / ("test.jsonl.gz" if zipped else "test.jsonl")
    data = path.read_bytes()
    changed = (gzip.decompress(data) if zipped else data).replace(b"cat", b"cow", 1)
    path.write_bytes(gzip.compress(changed) if zipped else changed)
    refused(tmp_path, "sts", "has another sha256")


def test_text_that_is_not_utf8_is_told_with_its_line(tmp_path):
    folder = plain(tmp_path, "classification")
    manifest_with(folder, files={})
    path = folder / "test.jsonl"
    path.write_bytes(path.read_bytes().replace(b"card_arrival", b"card_arriv\xe9", 1))
    refused(tmp_path, "classification", "toy-classification/test.jsonl, record 1: is not utf-8")


def test_a_truncated_file_is_told(tmp_path):
    folder = write_set(tmp_path, "sts")
    manifest_with(folder, files={})
    path = folder / "test.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    refused(tmp_path, "sts", "is damaged", SourceError)


def test_an_empty_corpus_is_refused(tmp_path):
    folder = plain(tmp_path, "retrieval")
    rewrite(folder, "corpus.jsonl", lambda lines: [])
    refused(tmp_path, "retrieval", "the corpus is missing or empty")


@pytest.mark.parametrize("name", ["corpus", "queries"])
def test_an_identity_that_appears_twice_is_refused(name, tmp_path):
    folder = plain(tmp_path, "retrieval")
    rewrite(folder, f"{name}.jsonl", lambda lines: [*lines, lines[0]])
    refused(tmp_path, "retrieval", f"{name}: the identity '.1000' appears twice")


def test_a_query_that_no_split_judges_is_counted_and_left_out(tmp_path, caplog):
    folder = plain(tmp_path, "retrieval")
    rewrite(folder, "qrels/test.tsv", lambda lines: lines[:-1])
    task = open_mteb_task(TASKS["retrieval"], mirror=tmp_path)
    assert len(task.query_texts()) == 23
    assert (
        "1 of 48 queries have no relevance judgement in any split and are left out, e.g. 'q5023'"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("note", "line"),
    [
        ("judged_passages_not_in_corpus", "q5000\tp9\t1"),
        ("judgements_of_unknown_queries", "q9\tp5000\t1"),
        ("judgements_of_unknown_queries", "q9\tp9\t1"),
    ],
)
def test_a_judgement_of_something_unknown_is_counted_and_told(note, line, tmp_path, caplog):
    folder = plain(tmp_path, "retrieval")
    whole = open_mteb_task(TASKS["retrieval"], mirror=tmp_path).run_bm25()
    rewrite(folder, "qrels/test.tsv", lambda lines: [*lines, line])
    run = open_mteb_task(TASKS["retrieval"], mirror=tmp_path).run_bm25()
    assert run.notes[note] == 1
    assert f"1 {note}" in caplog.text
    assert len(run.measurement.ids) == 24
    if "unknown_queries" in note:
        assert run.measurement.values == whole.measurement.values, "what is asked is scored as before"


@pytest.mark.parametrize("what", ["passage", "query"])
def test_judgements_of_another_set_are_refused(what, tmp_path):
    folder = plain(tmp_path, "retrieval")
    old, new = ("\tp5", "\tx5") if what == "passage" else ("q5", "x5")
    rewrite(
        folder, "qrels/test.tsv", lambda lines: [lines[0], *(line.replace(old, new) for line in lines[1:])]
    )
    refused(
        tmp_path,
        "retrieval",
        f"24 of 24 relevance judgements of test .* the {what} 'x5000'; the files do not",
    )


def test_judgements_may_be_in_trecs_form(tmp_path):
    folder = plain(tmp_path, "retrieval")
    expected = open_mteb_task(TASKS["retrieval"], mirror=tmp_path).run_bm25()
    as_trec = lambda lines: [" ".join((one.split()[0], "0", *one.split()[1:])) for one in lines[1:]]  # noqa: E731
    rewrite(folder, "qrels/test.tsv", as_trec)
    found = open_mteb_task(TASKS["retrieval"], mirror=tmp_path).run_bm25()
    assert found.measurement == expected.measurement


@pytest.mark.parametrize("damage", ["not json", "no manifest but a folder"])
def test_an_unreadable_folder_concerns_nobody_who_asks_for_another_set(tmp_path, damage, caplog):
    write_set(tmp_path, "sts")
    write_set(tmp_path, "retrieval", name="own", task=None)
    broken = tmp_path / "broken"
    broken.mkdir()
    if damage == "not json":
        (broken / "manifest.json").write_text("{")
    else:
        (broken / "manifest.json").mkdir()
    for name in (TASKS["sts"], "own"):
        assert open_mteb_task(name, mirror=tmp_path).facts.name == name
    assert (
        len([record for record in caplog.records if "a folder of the mirror is left out" in record.message])
        == 1
    )
    with pytest.raises(
        MissingTaskError, match=r"neither a folder.*or it is in a folder that cannot be read: .*broken"
    ):
        open_mteb_task(TASKS["clustering"], mirror=tmp_path)
    with pytest.raises(DataError, match="broken.*cannot be read"):
        open_mteb_task("broken", mirror=tmp_path)


def test_a_judgement_that_is_no_number_is_refused(tmp_path):
    folder = plain(tmp_path, "retrieval")
    rewrite(folder, "qrels/test.tsv", lambda lines: [*lines, "q5000\tp5001\tyes"])
    refused(tmp_path, "retrieval", "score must be a number, found 'yes'")


@pytest.mark.parametrize("kind", ["retrieval", "sts", "classification"])
def test_a_split_that_is_not_there_is_refused_with_those_that_are(kind, tmp_path):
    write_set(tmp_path, kind)
    refused(tmp_path, kind, "no split 'validation'.*found test, train", EvaluationError, split="validation")
    refused(tmp_path, kind, r"no split '\.\./test'", EvaluationError, split="../test")


def test_a_missing_field_is_told_with_its_place(tmp_path):
    folder = plain(tmp_path, "sts")
    rewrite(folder, "test.jsonl", lambda lines: [lines[0].replace("sentence2", "second"), *lines[1:]])
    refused(tmp_path, "sts", "test.jsonl, record 1: the field 'sentence2' is missing")


def test_a_score_that_is_text_and_a_label_that_is_a_share_are_refused(tmp_path):
    folder = plain(tmp_path, "sts")
    rewrite(
        folder, "test.jsonl", lambda lines: [lines[0].replace('"score": 0', '"score": "high"'), *lines[1:]]
    )
    refused(tmp_path, "sts", "score must be a number, found 'high'")
    folder = plain(tmp_path, "pair_classification")
    rewrite(folder, "test.jsonl", lambda lines: [lines[0].replace('"label": 1', '"label": 0.5'), *lines[1:]])
    refused(tmp_path, "pair_classification", "label must be a whole number, found 0.5")


def test_pairs_that_are_all_alike_are_refused(tmp_path):
    folder = plain(tmp_path, "pair_classification")
    rewrite(folder, "test.jsonl", lambda lines: [line.replace('"label": 0', '"label": 1') for line in lines])
    refused(tmp_path, "pair_classification", "all 24 pairs have the same score")


def test_a_query_to_rerank_needs_positives_and_negatives(tmp_path):
    folder = plain(tmp_path, "reranking")
    rewrite(folder, "test.jsonl", lambda lines: [json.dumps({**json.loads(lines[0]), "negative": []})])
    refused(tmp_path, "reranking", "needs a positive and a negative, found 1 and 0")


def test_an_empty_split_is_refused(tmp_path):
    folder = plain(tmp_path, "clustering")
    rewrite(folder, "test.jsonl", lambda lines: [])
    refused(tmp_path, "clustering", "empty")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "cannot be read"),
        ("[]", "task_type must be one of .* found 'list'"),
        ('{"task_type": "haiku"}', "found 'haiku'"),
        ('{"task_type": "sts", "mteb": "STS12"}', "mteb must be null or an object"),
        ('{"task_type": "sts", "files": []}', None),
        ('{"task_type": "sts", "files": ["test.jsonl"]}', "files must map"),
    ],
)
def test_a_manifest_that_is_none_is_refused(content, match, tmp_path):
    (tmp_path / "manifest.json").write_text(content)
    if match is None:
        assert read_manifest(tmp_path).kind == "sts"
        return
    with pytest.raises(DataError, match=match):
        read_manifest(tmp_path)


def test_a_set_with_nothing_but_training_data_cannot_be_evaluated(tmp_path):
    write_set(tmp_path, "retrieval", name="own", task=None, splits=("train",))
    with pytest.raises(EvaluationError, match="has only the splits train"):
        open_mteb_task("own", mirror=tmp_path)


def test_a_classification_set_without_training_texts_is_refused(tmp_path):
    write_set(tmp_path, "classification", splits=("test",))
    refused(tmp_path, "classification", "learns from the split 'train', which has 0 labels")


def test_two_sets_that_claim_one_task_are_refused(tmp_path):
    write_set(tmp_path, "sts", name="one")
    write_set(tmp_path, "sts", name="two")
    refused(tmp_path, "sts", "one and .*two both say that they are STSBenchmark")
