import csv
import gzip

import pytest

from icl_embed.errors import DataError
from icl_embed.sources.card import load_card
from icl_embed.texts import compared_form
from tests.icl_embed.corpus.cards import build, corpus, write_card, write_jsonl

LABELLED = """
[tables.rows]
[rows]
query = "{text}"
label = "{label}"
[splits]
train = 0.6
dev = 0.2
test = 0.2
"""


def texts_of(rows, split):
    return {
        compared_form(text)
        for row in rows
        if row["split"] == split
        for text in (row["query"], *row["positives"])
    }


def test_rows_come_out_as_the_contract_says(tmp_path):
    write_jsonl(tmp_path / "data" / "a.jsonl", [{"text": f"text {i}", "label": i % 3} for i in range(200)])
    counts, rows = build(write_card(tmp_path, "classification", LABELLED), tmp_path)
    assert sum(counts["rows"].values()) == len(rows) == 200
    assert counts["labels"] == 3
    assert {row["label"] for row in rows} == {"0", "1", "2"}
    assert len({row["row_id"] for row in rows}) == 200
    assert all(row["row_id"].startswith(row["split"] + "-") for row in rows)
    assert not (tmp_path / "out" / "corpus.parquet").exists()


def test_the_same_card_gives_the_same_bytes(tmp_path):
    write_jsonl(tmp_path / "data" / "a.jsonl", [{"text": f"text {i}", "label": i % 3} for i in range(100)])
    card = write_card(tmp_path, "classification", LABELLED)
    build(card, tmp_path)
    first = (tmp_path / "out" / "rows.parquet").read_bytes()
    build(card, tmp_path)
    assert (tmp_path / "out" / "rows.parquet").read_bytes() == first


def test_the_order_of_the_source_does_not_decide_the_splits(tmp_path):
    records = [{"text": f"text {i}", "label": i % 3} for i in range(100)]
    results = []
    for name, ordered in (("a", records), ("b", records[::-1])):
        write_jsonl(tmp_path / name / "data" / "a.jsonl", ordered)
        _, rows = build(write_card(tmp_path / name, "classification", LABELLED), tmp_path / name)
        results.append(rows)
    assert results[0] == results[1]


def test_a_smaller_cap_gives_the_first_rows_of_a_larger_one(tmp_path):
    write_jsonl(tmp_path / "data" / "a.jsonl", [{"text": f"text {i}", "label": i % 3} for i in range(300)])
    card = write_card(tmp_path, "classification", LABELLED)
    _, all_rows = build(card, tmp_path)
    counts, few = build(card, tmp_path, max_train_rows=10, max_test_queries=5)
    assert counts["rows"] == {"train": 10, "dev": 5, "test": 5}
    for split in ("train", "dev", "test"):
        kept = [row for row in few if row["split"] == split]
        assert kept == [row for row in all_rows if row["split"] == split][: len(kept)]


def test_empty_texts_duplicates_and_contradictions_are_counted_not_fatal(tmp_path):
    good = [{"text": f"text {i}", "label": i % 3} for i in range(50)]
    bad = [
        {"text": "  ", "label": 1},
        {"text": None, "label": 1},
        {"text": "no label", "label": ""},
        {"text": "TEXT  1", "label": 1},
        {"text": "both", "label": 1},
        {"text": "Both", "label": 2},
    ]
    write_jsonl(tmp_path / "data" / "a.jsonl", good + bad)
    counts, rows = build(write_card(tmp_path, "classification", LABELLED), tmp_path)
    assert len(rows) == 50
    assert counts["rejected"] == {
        "duplicate": 1,
        "empty query": 2,
        "no label": 1,
        "same text with two labels": 2,
    }


def test_a_missing_field_is_told_with_file_record_and_field(tmp_path):
    write_jsonl(tmp_path / "data" / "a.jsonl", [{"text": "x", "label": 1}, {"txt": "y", "label": 1}])
    card = write_card(tmp_path, "classification", LABELLED)
    with pytest.raises(DataError, match=r'a\.jsonl, record 2: no field "text"; it has: txt, label'):
        build(card, tmp_path)


@pytest.mark.parametrize(
    ("value", "reason"), [({"a": 1}, "found a dict"), (["a", "b"], "found 2 values; explode the field")]
)
def test_a_wrong_type_is_told_with_file_record_and_field(tmp_path, value, reason):
    write_jsonl(tmp_path / "data" / "a.jsonl", [{"text": value, "label": 1}])
    with pytest.raises(DataError, match=rf'a\.jsonl, record 1: field "text" must be one text, {reason}'):
        build(write_card(tmp_path, "classification", LABELLED), tmp_path)


PAIRS = """
[tables.rows]
columns = ["a", "b", "s"]
[rows]
query = "{a}"
positives = "{b}"
score = "{s}"
[splits]
method = "text"
train = 0.5
test = 0.5
"""


def write_tsv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


@pytest.mark.parametrize("score", ["nan", "inf", "high", ""])
def test_a_score_that_is_no_finite_number_is_refused(tmp_path, score):
    write_tsv(tmp_path / "data" / "a.tsv", [("x", "y", 1), ("z", "w", score)])
    with pytest.raises(DataError, match=r"a\.tsv, record 2.*must be a finite number"):
        build(write_card(tmp_path, "sts", PAIRS), tmp_path)


def test_dense_pairs_are_split_by_their_texts(tmp_path):
    words = [f"w{i}" for i in range(20)]
    pairs = [(a, b, i) for i, a in enumerate(words) for b in words[i + 1 :]]
    write_tsv(tmp_path / "data" / "a.tsv", pairs)
    counts, rows = build(write_card(tmp_path, "sts", PAIRS), tmp_path)
    assert not texts_of(rows, "train") & texts_of(rows, "test")
    assert len(rows) + counts["rejected"]["texts of two splits"] == len(pairs)
    assert counts["rows"]["train"] and counts["rows"]["test"]


def test_a_dense_graph_under_the_hash_rule_is_told_with_the_way_out(tmp_path):
    write_tsv(tmp_path / "data" / "a.tsv", [("hub", f"w{i}", 1) for i in range(30)])
    with pytest.raises(DataError, match=r'hang together.*method = "text"'):
        build(write_card(tmp_path, "sts", PAIRS.replace('"text"', '"hash"')), tmp_path)


def test_pairs_with_two_scores_are_dropped(tmp_path):
    write_tsv(
        tmp_path / "data" / "a.tsv",
        [("x", "y", 1), ("y", "X", 2), ("a", "b", 3), ("c", "d", 1), ("e", "f", 2)],
    )
    body = PAIRS.replace("train = 0.5\ntest = 0.5", "train = 1.0\ntest = 0.0")
    counts, rows = build(write_card(tmp_path, "sts", body), tmp_path)
    assert counts["rejected"] == {"same pair with two scores": 2}
    assert {row["query"] for row in rows} == {"a", "c", "e"}


RETRIEVAL = """
[tables.docs]
[rows]
explode = "questions"
query = "{questions}"
positives = "{title}: {body}"
[corpus]
text = "{title}: {body}"
where.body.min_characters = 1
[splits]
group = "{topic}"
train = 0.5
test = 0.5
"""


def docs(number=120):
    return [
        {
            "title": f"t{i}",
            "body": f"body {i}",
            "topic": f"topic {i // 4}",
            "questions": [] if i % 3 else [f"what is t{i}?", f"who is t{i}?", f"shared question {i // 40}"],
        }
        for i in range(number)
    ]


def test_retrieval_keeps_groups_and_corpora_apart(tmp_path):
    write_jsonl(tmp_path / "data" / "a.jsonl", docs())
    counts, rows = build(write_card(tmp_path, "retrieval", RETRIEVAL), tmp_path)
    passages = corpus(tmp_path)
    owner = {p["text"]: p["split"] for p in passages}
    assert len(owner) == len(passages) == 120 == sum(counts["passages"].values())
    assert all(owner[text] == row["split"] for row in rows for text in row["positives"])
    topics = {}
    for passage in passages:
        topics.setdefault(int(passage["text"].split()[-1]) // 4, set()).add(passage["split"])
    assert all(len(splits) == 1 for splits in topics.values())
    assert len({p["passage_id"] for p in passages}) == 120


def test_a_query_with_several_passages_is_one_row(tmp_path):
    write_jsonl(tmp_path / "data" / "a.jsonl", docs())
    _, rows = build(write_card(tmp_path, "retrieval", RETRIEVAL), tmp_path)
    shared = [row for row in rows if row["query"].startswith("shared")]
    assert len(shared) == 3
    assert all(len(row["positives"]) > 10 for row in shared)


def test_a_capped_corpus_keeps_every_positive(tmp_path):
    write_jsonl(tmp_path / "data" / "a.jsonl", docs())
    counts, rows = build(
        write_card(tmp_path, "retrieval", RETRIEVAL), tmp_path, max_test_queries=3, max_test_passages=5
    )
    texts = {p["text"] for p in corpus(tmp_path) if p["split"] == "test"}
    positives = {text for row in rows if row["split"] == "test" for text in row["positives"]}
    assert positives <= texts
    assert len(texts) == max(5, len(positives)) == counts["passages"]["test"]


SIBLINGS = """
[tables.codes]
[rows]
explode = "terms"
query = "{terms}"
positives = "{name}"
[negatives]
same = "{parent}"
text = "{name}"
limit = 2
minimum = 2
[splits]
group = "{parent}"
train = 0.5
test = 0.5
"""


def codes():
    return [
        {"name": f"code {p}.{c}", "parent": f"p{p}", "terms": [f"term {p}.{c}"] if c < 2 else []}
        for p in range(30)
        for c in range(2 if p == 0 else 5)
    ]


def test_negatives_come_from_records_with_the_same_key(tmp_path):
    write_jsonl(tmp_path / "data" / "a.jsonl", codes())
    counts, rows = build(write_card(tmp_path, "reranking", SIBLINGS), tmp_path)
    assert len(rows) == 58
    assert counts["rejected"] == {"too few related negatives": 2}
    for row in rows:
        (positive,) = row["positives"]
        parent = positive.split(".")[0]
        assert len(row["negatives"]) == 2 and positive not in row["negatives"]
        assert all(text.startswith(parent + ".") for text in row["negatives"])


def test_relations_make_pairs_of_both_labels(tmp_path):
    write_jsonl(tmp_path / "data" / "a.jsonl", codes())
    body = SIBLINGS.replace("limit = 2\nminimum = 2", "limit = 1")
    _, rows = build(write_card(tmp_path, "pair_classification", body), tmp_path)
    assert [row["score"] for row in rows].count(1.0) == [row["score"] for row in rows].count(0.0) == 60
    for row in rows:
        same = row["query"].removeprefix("term") == row["positives"][0].removeprefix("code")
        assert same == (row["score"] == 1.0)
        assert row["negatives"] == []


def test_a_negative_that_equals_a_positive_is_dropped_with_its_score(tmp_path):
    record = {
        "query": "q",
        "pos": ["p"],
        "neg": ["n", " P ", "m"],
        "pos_scores": [1.0],
        "neg_scores": [0.5, 0.9, 0.1],
    }
    write_jsonl(tmp_path / "data" / "train.jsonl", [record])
    card = write_card(tmp_path, "retrieval", "[splits]\ntrain = 1.0\ntest = 0.0\n", layout="flagembedding")
    counts, (row,) = build(card, tmp_path)
    assert (row["negatives"], row["negative_scores"]) == (["n", "m"], [0.5, 0.1])
    assert sum(counts["rejected"].values()) == 1


def test_an_empty_negative_goes_with_its_score_and_is_counted(tmp_path):
    record = {
        "query": "q",
        "pos": ["p"],
        "neg": ["n", "", "m"],
        "pos_scores": [1.0],
        "neg_scores": [0.5, 0.0, 0.1],
    }
    write_jsonl(tmp_path / "data" / "train.jsonl", [record])
    card = write_card(tmp_path, "retrieval", "[splits]\ntrain = 1.0\ntest = 0.0\n", layout="flagembedding")
    counts, (row,) = build(card, tmp_path)
    assert (row["negatives"], row["negative_scores"]) == (["n", "m"], [0.5, 0.1])
    assert counts["rejected"]["empty negative"] == 1


def test_a_negative_that_many_rows_share_is_no_leak(tmp_path):
    records = [
        {"query": f"question {i}", "pos": [f"answer {i}"], "neg": ["shared by all", f"only {i}"]}
        for i in range(40)
    ]
    write_jsonl(tmp_path / "data" / "train.jsonl", records)
    body = "[splits]\ntrain = 0.5\ntest = 0.5\n"
    counts, rows = build(write_card(tmp_path, "retrieval", body, layout="flagembedding"), tmp_path)
    assert counts["rows"]["train"] and counts["rows"]["test"]
    assert all("shared by all" in row["negatives"] for row in rows)
    assert {p["split"] for p in corpus(tmp_path) if p["text"] == "shared by all"} == {"train", "test"}
    assert not texts_of(rows, "train") & texts_of(rows, "test")


def test_a_label_of_a_pair_is_told_with_file_and_record(tmp_path):
    write_tsv(tmp_path / "data" / "a.tsv", [("x", "y", 1), ("z", "w", 3)])
    with pytest.raises(DataError, match=r"a\.tsv, record 2: a pair's score must be 0 or 1, found 3.0"):
        build(write_card(tmp_path, "pair_classification", PAIRS), tmp_path)


@pytest.mark.parametrize("layout", ["folder", "flagembedding"])
def test_the_files_of_a_layout_may_be_in_another_encoding(tmp_path, layout):
    card = 'encoding = "gb18030"\n'
    folder = tmp_path / "data"
    folder.mkdir()
    if layout == "folder":
        (folder / "corpus.jsonl").write_bytes('{"_id": "d1", "text": "苹果"}\n'.encode("gb18030"))
        (folder / "queries.jsonl").write_bytes('{"_id": "一", "text": "水果"}\n'.encode("gb18030"))
        (folder / "qrels").mkdir()
        (folder / "qrels" / "train.tsv").write_bytes(
            "query-id\tcorpus-id\tscore\n一\td1\t1\n".encode("gb18030")
        )
        body = ""
    else:
        (folder / "a.jsonl").write_bytes('{"query": "水果", "pos": ["苹果"]}\n'.encode("gb18030"))
        body = "[splits]\ntrain = 1.0\ntest = 0.0\n"
    with pytest.raises(DataError, match='encoding = "gb18030"'):
        build(write_card(tmp_path, "retrieval", body, layout=layout), tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(card + path.read_text())
    _, (row,) = build(load_card(path), tmp_path)
    assert (row["query"], row["positives"]) == ("水果", ["苹果"])


def test_flagembedding_scores_must_be_aligned(tmp_path):
    record = {"query": "q", "pos": ["p"], "neg": ["n", "m"], "pos_scores": [1.0], "neg_scores": [0.5]}
    write_jsonl(tmp_path / "data" / "train.jsonl", [record])
    card = write_card(tmp_path, "retrieval", "[splits]\ntrain = 1.0\ntest = 0.0\n", layout="flagembedding")
    with pytest.raises(DataError, match="train.jsonl, record 1: 1 negative scores for 2 negatives"):
        build(card, tmp_path)


def test_flagembedding_clusters_have_labels(tmp_path):
    records = [
        {
            "query": f"q{i}",
            "pos": [f"p{i}"],
            "neg": [],
            "prompt": "x",
            "type": "symmetric_clustering",
            "category": f"c{i % 2}",
        }
        for i in range(40)
    ]
    write_jsonl(tmp_path / "data" / "train.jsonl", records)
    counts, rows = build(write_card(tmp_path, "clustering", layout="flagembedding"), tmp_path)
    assert counts["labels"] == 2 and len(rows) == 40


def write_folder(folder):
    write_jsonl(
        folder / "corpus.jsonl.gz",
        [{"_id": f"d{i}", "title": "" if i else "T", "text": f"passage {i}"} for i in range(9)],
    )
    write_jsonl(folder / "queries.jsonl.gz", [{"_id": f"q{i}", "text": f"question {i}"} for i in range(4)])
    (folder / "qrels").mkdir()
    for split, rows in (
        ("test", [("q0", "d0", 1), ("q0", "d1", 2), ("q1", "d2", 0)]),
        ("train", [("q2", "d1", 1)]),
    ):
        with gzip.open(folder / "qrels" / f"{split}.tsv.gz", "wt", newline="") as handle:
            csv.writer(handle, delimiter="\t", lineterminator="\n").writerows(
                [("query-id", "corpus-id", "score"), *rows]
            )


def test_a_retrieval_folder_needs_no_mapping(tmp_path):
    write_folder(tmp_path / "data")
    counts, rows = build(write_card(tmp_path, "retrieval", layout="folder"), tmp_path)
    assert counts["rows"] == {"train": 1, "dev": 0, "test": 1}
    assert {p["split"] for p in corpus(tmp_path)} == {"all"} and len(corpus(tmp_path)) == 9
    (test,) = (row for row in rows if row["split"] == "test")
    assert (test["query"], set(test["positives"])) == ("question 0", {"T passage 0", "passage 1"})
    assert set(test["positives"]) <= {p["text"] for p in corpus(tmp_path)}


@pytest.mark.parametrize(
    ("kind", "record", "expected"),
    [
        ("classification", {"text": "t", "label": 1, "label_text": "one"}, ("t", [], [], "one", None)),
        ("clustering", {"text": "t", "label": "c"}, ("t", [], [], "c", None)),
        ("sts", {"sentence1": "a", "sentence2": "b", "score": 2.5}, ("a", ["b"], [], None, 2.5)),
        (
            "pair_classification",
            {"sentence1": "a", "sentence2": "b", "label": 1},
            ("a", ["b"], [], None, 1.0),
        ),
        ("reranking", {"query": "q", "positive": ["p"], "negative": ["n"]}, ("q", ["p"], ["n"], None, None)),
    ],
)
def test_split_files_of_each_kind_need_no_mapping(tmp_path, kind, record, expected):
    write_jsonl(tmp_path / "data" / "validation.jsonl.gz", [record])
    write_jsonl(tmp_path / "data" / "oos_test.jsonl.gz", [{"other": "file"}])
    counts, (row,) = build(write_card(tmp_path, kind, layout="folder"), tmp_path)
    assert counts["rows"] == {"train": 0, "dev": 1, "test": 0}
    assert tuple(row[name] for name in ("query", "positives", "negatives", "label", "score")) == expected


def test_a_text_in_two_given_splits_stays_in_the_later_one(tmp_path):
    rows = {"train": ["a", "b", "c"], "dev": ["B", "d"], "test": ["C", "D", "e", "e"]}
    for name, texts in rows.items():
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", [{"text": t, "label": t.lower()} for t in texts])
    counts, built = build(write_card(tmp_path, "classification", layout="folder"), tmp_path)
    assert counts["rows"] == {"train": 1, "dev": 1, "test": 4}  # a published test split is left as it is
    assert counts["rejected"] == {"text also in a later split": 3}
    assert not texts_of(built, "train") & texts_of(built, "test")


def test_joins_need_unique_keys(tmp_path):
    write_folder(tmp_path / "data")
    write_jsonl(
        tmp_path / "data" / "queries.jsonl.gz", [{"_id": "q0", "text": "a"}, {"_id": "q0", "text": "b"}]
    )
    with pytest.raises(DataError, match=r"queries\.jsonl\.gz, record 2: the key 'q0' is also in"):
        build(write_card(tmp_path, "retrieval", layout="folder"), tmp_path)


def test_a_mapping_that_leaves_nothing_is_told(tmp_path):
    write_jsonl(tmp_path / "data" / "a.jsonl", [{"text": "x", "label": 1}])
    body = LABELLED.replace("[rows]", '[rows]\nwhere.label.among = ["7"]')
    with pytest.raises(DataError, match="no record is left of 1"):
        build(write_card(tmp_path, "classification", body), tmp_path)


def test_a_pair_label_other_than_0_and_1_is_refused(tmp_path):
    write_jsonl(tmp_path / "data" / "train.jsonl", [{"sentence1": "a", "sentence2": "b", "label": 2}])
    with pytest.raises(DataError, match=r"must be 0 or 1, found 2\.0"):
        build(write_card(tmp_path, "pair_classification", layout="folder"), tmp_path)


def test_ratings_become_labels_by_rules(tmp_path):
    body = """
[tables.rows]
[rows]
query = "{text}"
label_rules = [{ label = "good", where.stars.min = 4 }, { label = "bad", where.stars.max = 2 }]
[splits]
train = 1.0
test = 0.0
"""
    write_jsonl(tmp_path / "data" / "a.jsonl", [{"text": f"t{i}", "stars": i} for i in range(1, 6)])
    counts, rows = build(write_card(tmp_path, "classification", body), tmp_path)
    assert {row["query"]: row["label"] for row in rows} == {
        "t1": "bad",
        "t2": "bad",
        "t4": "good",
        "t5": "good",
    }
    assert counts["rejected"] == {"no label": 1}


def two_judged_splits(folder, files):
    write_jsonl(folder / "corpus.jsonl", [{"_id": f"d{i}", "text": f"passage {i}"} for i in range(5)])
    write_jsonl(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"question {i}"} for i in range(5)])
    (folder / "qrels").mkdir()
    for name, numbers in files.items():
        lines = [f"q{i}\td{i}\t1\n" for i in numbers]
        (folder / "qrels" / f"{name}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))


def test_a_query_of_two_splits_belongs_to_the_later_one(tmp_path):
    two_judged_splits(tmp_path / "data", {"dev": [0, 1], "test": [1, 2, 3], "train": [0, 3, 4]})
    counts, rows = build(write_card(tmp_path, "retrieval", layout="folder"), tmp_path)
    assert counts["rows"] == {"train": 1, "dev": 1, "test": 3}
    assert counts["rejected"]["text also in a later split"] == 3
    assert {row["query"] for row in rows if row["split"] == "test"} == {f"question {i}" for i in (1, 2, 3)}


def test_names_of_one_split_are_merged_and_unused_ones_decide_nothing(tmp_path):
    two_judged_splits(tmp_path / "data", {"valid": [0, 1], "validation": [1, 2], "extra": [0], "test": [3]})
    counts, _ = build(write_card(tmp_path, "retrieval", layout="folder"), tmp_path)
    assert counts["rows"] == {"train": 0, "dev": 3, "test": 1}
    assert counts["rejected"]["of a split that the card does not use"] == 1
    assert counts["rejected"]["merged into a row with the same query"] == 1


def test_a_label_in_an_unused_split_contradicts_nothing(tmp_path):
    for name, label in (("train", "a"), ("old", "b")):
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", [{"text": "one text", "label": label}])
    body = '[tables.rows]\n[rows]\nquery = "{text}"\nlabel = "{label}"\n[splits]\nmethod = "given"\n'
    counts, rows = build(write_card(tmp_path, "classification", body), tmp_path)
    assert [row["label"] for row in rows] == ["a"]
    assert counts["rejected"] == {"of a split that the card does not use": 1}


@pytest.mark.parametrize(
    ("splits", "asked"),
    [
        ("", "'train' or 'dev' or 'validation' or 'valid' or 'val' or 'test'"),
        ('train = ["part1"]\ntest = ["held-out"]', "'held-out'"),
        ('train = ["parts"]', "'parts'"),
    ],
)
def test_split_names_that_the_source_does_not_have_are_told_with_those_it_has(tmp_path, splits, asked):
    for name in ("part1", "part2"):
        write_jsonl(
            tmp_path / "data" / f"{name}.jsonl", [{"text": f"{name} {i}", "label": i} for i in range(3)]
        )
    body = f'[tables.rows]\n[rows]\nquery = "{{text}}"\nlabel = "{{label}}"\n[splits]\nmethod = "given"\n{splits}\n'
    with pytest.raises(
        DataError, match=rf"split called {asked}; the source has: 'part1' \(3 rows\), 'part2' \(3 rows\)"
    ):
        build(write_card(tmp_path, "classification", body), tmp_path)


@pytest.mark.parametrize("kind", ["sts", "pair_classification"])
def test_flagembedding_pairs_without_scores_are_positives_with_their_negatives(tmp_path, kind):
    records = [
        {"query": f"q{i}", "pos": [f"p{i}"], "neg": ["n", f"m{i}"], "pos_scores": []} for i in range(9)
    ]
    del records[0]["pos_scores"]
    write_jsonl(tmp_path / "data" / "a.jsonl", records)
    body = "[splits]\ntrain = 1.0\ntest = 0.0\n"
    _, rows = build(write_card(tmp_path, kind, body, layout="flagembedding"), tmp_path)
    assert len(rows) == 9
    for row in rows:
        number = row["query"].removeprefix("q")
        assert (row["score"], row["negatives"]) == (1.0, ["n", f"m{number}"])


def test_a_teachers_score_is_no_label_of_a_pair(tmp_path):
    write_jsonl(tmp_path / "data" / "a.jsonl", [{"query": "q", "pos": ["p"], "pos_scores": [98.2]}])
    with pytest.raises(DataError, match=r'must be 0 or 1, found 98\.2.*layout = "collection"'):
        build(write_card(tmp_path, "pair_classification", layout="flagembedding"), tmp_path)
