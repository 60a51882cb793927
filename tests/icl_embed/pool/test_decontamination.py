import json

import pytest

from icl_embed.config import PoolConfig
from tests.icl_embed.pool.datasets import (
    WORDS,
    build,
    labelled_rows,
    passage,
    read,
    retrieval_row,
    row,
    sentence,
    write_dataset,
)


def statistics(folder, dataset):
    return json.loads((folder / "statistics.json").read_text())["datasets"][dataset]


VARIANTS = {
    "exact": lambda text: text,
    "upper case": str.upper,
    "extra spaces": lambda text: "  " + text.replace(" ", " \t "),
    "non-breaking spaces": lambda text: text.replace(" ", "\u00a0"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_one_of_100_planted_test_queries_is_found(tmp_path, variant):
    evaluated = [retrieval_row(n, "test", query=sentence(n, 6)) for n in range(100)]
    planted = [retrieval_row(n + 1000, query=VARIANTS[variant](sentence(n, 6))) for n in range(100)]
    clean = [retrieval_row(n) for n in range(2000, 2050)]
    test_set = write_dataset(tmp_path / "quiz", evaluated, trained=False)
    train_set = write_dataset(tmp_path / "web", [*planted, *clean])
    folder = build(tmp_path, test_set, train_set)
    found = statistics(folder, "web")
    assert found["decontamination"]["exact"] == 100
    assert found["decontamination"]["exact_by_evaluated_dataset"] == {"quiz": 100}
    assert found["rejected"] == {"evaluated_exact": 100}
    assert len(read(folder, "train")) == 50


def test_a_long_run_of_words_inside_a_passage_is_found_and_a_shorter_one_is_not(tmp_path):
    question = sentence(1, 20)
    run = question.split()
    rows = [
        retrieval_row(10, positives=[f"Intro: {' '.join(run[3:16]).upper()}, and so on"]),
        retrieval_row(11, positives=[f"Intro: {' '.join(run[3:15])}, and so on"]),
        retrieval_row(12, query=f"why {' - '.join(run[2:15])}?"),
    ]
    test_set = write_dataset(tmp_path / "quiz", [retrieval_row(1, "dev", query=question)], trained=False)
    folder = build(tmp_path, test_set, write_dataset(tmp_path / "web", rows))
    assert [pair["pair_id"] for pair in read(folder, "train")] == ["web/train-000011/0"]
    found = statistics(folder, "web")["decontamination"]
    assert (found["exact"], found["ngram"], found["ngram_without_exact"]) == (0, 2, 2)


def test_recall_of_planted_near_copies_depends_on_what_is_left_of_the_run(tmp_path):
    """One word changed in the middle: found if 13 words in a row are left, and only then."""
    for length, expected in ((30, 100), (13, 0)):
        evaluated, planted = [], []
        for number in range(100):
            words = sentence(number, 4).split() + [f"{WORDS[i % 16]}{number}x{i}" for i in range(length - 4)]
            evaluated.append(retrieval_row(number, "test", query=" ".join(words)))
            words[length // 2] = "changed"
            planted.append(retrieval_row(number + 1000, query=" ".join(words)))
        home = tmp_path / str(length)
        test_set = write_dataset(home / "quiz", evaluated, trained=False)
        train_set = write_dataset(home / "web", [*planted, retrieval_row(5000)])
        folder = build(home, test_set, train_set)
        assert statistics(folder, "web")["decontamination"]["ngram"] == expected


@pytest.mark.parametrize("role", ["positive", "negative", "passage", "second sentence"])
def test_whatever_an_evaluation_looks_at_is_kept_out(tmp_path, role):
    secret = "the secret of the evaluation"
    kind, rows, passages = "retrieval", [retrieval_row(1, "test")], []
    if role == "positive":
        rows = [retrieval_row(1, "test", positives=[secret])]
    elif role == "negative":
        kind, rows = "reranking", [retrieval_row(1, "test", negatives=[secret])]
    elif role == "passage":
        passages = [("test", secret)]
    else:
        kind, rows = "sts", [row(1, "test", positives=[secret], score=2.0)]
    test_set = write_dataset(tmp_path / "quiz", rows, kind=kind, trained=False, passages=passages)
    train = [
        retrieval_row(2, query=secret.title()),
        retrieval_row(3, positives=[secret]),
        retrieval_row(4, negatives=[secret, passage(9)]),
    ]
    folder = build(tmp_path, test_set, write_dataset(tmp_path / "web", train, passages=[("train", secret)]))
    assert [pair["pair_id"] for pair in read(folder, "train")] == ["web/train-000004/0"]
    everything = json.dumps([read(folder, name) for name in ("train", "examples", "passages", "relations")])
    assert secret not in everything.lower()
    assert statistics(folder, "web")["negatives_given"]["evaluated_exact"] == 1


def test_of_a_corpus_that_splits_share_only_answers_to_evaluated_queries_are_kept_out(tmp_path):
    rows = [retrieval_row(1), retrieval_row(2, "test"), retrieval_row(3, positives=[passage(2)])]
    shared = [("all", passage(1)), ("all", passage(2)), ("all", "a distractor of everyone")]
    source = write_dataset(tmp_path / "data", rows)
    import pyarrow.parquet as pq

    table = pq.read_table(source.folder / "corpus.parquet").slice(0, 0)
    new = table.from_pylist(
        [{"passage_id": str(n), "split": split, "text": text} for n, (split, text) in enumerate(shared)],
        schema=table.schema,
    )
    pq.write_table(new, source.folder / "corpus.parquet")
    folder = build(tmp_path, source)
    assert [pair["pair_id"] for pair in read(folder, "train")] == ["data/train-000001/0"]
    assert {item["passage"] for item in read(folder, "passages")} == {passage(1), "a distractor of everyone"}


def test_label_texts_are_no_contamination(tmp_path):
    test_set = write_dataset(tmp_path / "quiz", [retrieval_row(1, "test", query="travel")], trained=False)
    train = write_dataset(tmp_path / "news", labelled_rows(6, ["travel", "money"]), kind="classification")
    folder = build(tmp_path, test_set, train)
    assert statistics(folder, "news")["rejected"] == {}


def test_statistics_say_how_many_pairs_only_the_exact_comparison_can_catch(tmp_path):
    rows = [retrieval_row(1, query="short one", positives=["short two"]), retrieval_row(2)]
    folder = build(tmp_path, write_dataset(tmp_path / "data", rows), config=PoolConfig())
    assert statistics(folder, "data")["decontamination"]["exact_only"] == 1
    assert (
        "only the exact" in json.loads((folder / "statistics.json").read_text())["notes"]["decontamination"]
    )


def test_an_evaluated_text_twice_in_training_is_counted_twice(tmp_path):
    test_set = write_dataset(tmp_path / "quiz", [retrieval_row(1, "test")], trained=False)
    rows = [retrieval_row(2, query=sentence(1)), retrieval_row(3, query=sentence(1)), retrieval_row(4)]
    folder = build(tmp_path, test_set, write_dataset(tmp_path / "web", rows))
    assert statistics(folder, "web")["decontamination"]["exact"] == 2
