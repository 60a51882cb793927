import hashlib
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icl_embed.config import NegativesConfig, PoolConfig
from icl_embed.errors import DataError, PoolError
from icl_embed.pool import export, pages
from icl_embed.pool.database import open_pool
from icl_embed.pool.mining import Miner, mine_negatives
from icl_embed.report.facts import pool_table
from tests.icl_embed.pool.datasets import (
    LENIENT,
    build,
    labelled_rows,
    passage,
    read,
    retrieval_row,
    row,
    sentence,
    write_dataset,
)

EXPORTS = ("train", "examples", "passages", "relations")


def statistics(folder, dataset):
    return json.loads((folder / "statistics.json").read_text())["datasets"][dataset]


def reasons_by_row(folder):
    with open_pool(folder) as connection:
        rows = connection.execute("SELECT row_id, reason FROM pairs ORDER BY pair_id").fetchall()
    return dict(rows)


@pytest.mark.parametrize(
    ("kind", "reason", "fields"),
    [
        ("retrieval", "empty_query", {"query": " \t\u200b\0"}),
        ("retrieval", "positive_missing", {"positives": []}),
        ("retrieval", "positive_missing", {"positives": [" "]}),
        ("retrieval", "too_short", {"query": "ab"}),
        ("retrieval", "too_long", {"query": "long " * 5000}),
        ("retrieval", "positive_equals_query", {"query": "Same  text", "positives": ["same text"]}),
        ("classification", "label_missing", {"label": None, "positives": []}),
        ("classification", "label_missing", {"label": "  ", "positives": []}),
        ("clustering", "label_missing", {"label": "", "positives": []}),
        ("sts", "score_missing", {"score": None}),
        ("sts", "score_missing", {"score": float("nan")}),
        ("pair_classification", "score_missing", {"score": float("inf")}),
    ],
)
def test_each_kind_of_bad_row_is_rejected_for_its_own_reason(tmp_path, kind, reason, fields):
    common = {"retrieval": {}, "classification": {"label": "good"}, "clustering": {"label": "good"}}.get(
        kind, {"score": 1.0}
    )
    rows = [retrieval_row(number, **common) for number in range(6)]
    rows[3] = retrieval_row(3, **(common | fields))
    folder = build(tmp_path, write_dataset(tmp_path / "data", rows, kind=kind))
    assert statistics(folder, "data")["rejected"] == {reason: 1}
    assert reasons_by_row(folder)["train-000003"] == reason
    assert len(read(folder, "train")) == 5


def test_texts_are_stored_normalised_and_without_control_characters(tmp_path):
    rows = [retrieval_row(0, query=" cafe\u0301\0 au lait ", positives=["line\r\nbreak  kept"])]
    (pair,) = read(build(tmp_path, write_dataset(tmp_path / "data", rows)), "train")
    assert (pair["query"], pair["positive"]) == ("caf\u00e9 au lait", "line\nbreak  kept")
    assert pair["response"] == pair["positive"]


def test_the_same_text_with_two_labels_is_dropped_and_with_one_label_kept_once(tmp_path):
    rows = labelled_rows(4, ["red", "blue"])
    rows += [
        row(10, query="good morning", label="red"),
        row(11, query="Good  Morning", label="blue"),
        row(12, query="good night", label="red"),
        row(13, query="GOOD NIGHT", label="Red"),
    ]
    folder = build(tmp_path, write_dataset(tmp_path / "data", rows, kind="classification"))
    assert statistics(folder, "data")["rejected"] == {"exact_duplicate": 1, "label_conflict": 2}
    found = reasons_by_row(folder)
    assert found["train-000012"] is None
    assert found["train-000013"] == "exact_duplicate"


def test_a_pair_judged_both_ways_is_dropped(tmp_path):
    rows = [
        row(1, query="a cat sat", positives=["a cat was sitting"], score=1.0),
        row(2, query="a cat was sitting", positives=["A cat sat"], score=0.0),
        row(3, positives=[passage(3)], score=1.0),
    ]
    folder = build(tmp_path, write_dataset(tmp_path / "data", rows, kind="pair_classification"))
    assert statistics(folder, "data")["rejected"] == {"label_conflict": 2}


def test_one_query_keeps_all_its_different_positives(tmp_path):
    rows = [
        retrieval_row(1, positives=[passage(1), passage(2), passage(1).upper()]),
        retrieval_row(2, query=sentence(1).upper(), positives=[passage(3), passage(2)]),
    ]
    folder = build(tmp_path, write_dataset(tmp_path / "data", rows))
    assert [pair["positive"] for pair in read(folder, "train")] == [passage(1), passage(2), passage(3)]
    assert statistics(folder, "data")["rejected"] == {"exact_duplicate": 2}


def test_near_duplicates_keep_the_first_row_and_remember_what_they_repeat(tmp_path):
    long = sentence(1, 20)
    rows = [
        retrieval_row(1, query=long),
        retrieval_row(2, query=long + "!"),
        retrieval_row(3, query=sentence(3, 20)),
    ]
    folder = build(tmp_path, write_dataset(tmp_path / "data", rows))
    assert statistics(folder, "data")["rejected"] == {"near_duplicate": 1}
    assert [pair["query"] for pair in read(folder, "train")] == [long, sentence(3, 20)]
    # its positive also answers the query that was kept: the miner must know
    relations = {(item["query"], item["passage"]) for item in read(folder, "relations")}
    assert (long, passage(2)) in relations


def test_sts_pairs_are_positives_from_four_fifths_of_the_scale(tmp_path):
    rows = [
        row(number, positives=[passage(number)], score=score)
        for number, score in enumerate([5.0, 4.0, 3.9, 0.0])
    ]
    folder = build(tmp_path, write_dataset(tmp_path / "data", rows, kind="sts"))
    assert [pair["pair_id"] for pair in read(folder, "train")] == [f"data/train-{n:06d}/0" for n in (0, 1)]
    assert statistics(folder, "data")["pairs_not_positive"] == 2
    assert statistics(folder, "data")["rejected"] == {}


def test_a_low_scored_partner_of_the_same_query_is_its_given_negative(tmp_path):
    query = "the harbour is quiet"
    rows = [
        row(1, query=query, positives=["the port is calm"], score=1.0),
        row(2, query=query, positives=["stocks fell sharply"], score=0.0),
    ]
    folder = build(tmp_path, write_dataset(tmp_path / "data", rows, kind="pair_classification"))
    (pair,) = read(folder, "train")
    assert pair["negatives"] == ["stocks fell sharply"]


def test_given_negatives_keep_their_scores_and_lose_false_ones(tmp_path):
    fields = {
        "positives": [passage(1), passage(2)],
        "negatives": [passage(7), passage(2).upper(), " ", passage(8), passage(7)],
        "positive_scores": [0.9, 0.8],
        "negative_scores": [0.5, 0.4, 0.3, 0.2, 0.1],
    }
    folder = build(tmp_path, write_dataset(tmp_path / "data", [retrieval_row(1, **fields)]))
    first, second = read(folder, "train")
    assert first["negatives"] == second["negatives"] == [passage(7), passage(8)]
    assert first["negative_scores"] == [0.5, 0.2]
    assert (first["positive_score"], second["positive_score"]) == (0.9, 0.8)
    counts = statistics(folder, "data")["negatives_given"]
    assert counts == {"kept": 2, "empty": 1, "equals_positive": 1, "repeated": 1}


def test_weights_follow_the_temperature_and_sum_to_one(tmp_path):
    big = write_dataset(tmp_path / "big", [retrieval_row(n) for n in range(16)])
    small = write_dataset(tmp_path / "small", [retrieval_row(n) for n in range(100, 104)])
    unseen = write_dataset(tmp_path / "unseen", [retrieval_row(n) for n in range(200, 220)], trained=False)
    for temperature, expected in ((0.5, (2 / 3, 1 / 3)), (1.0, (0.8, 0.2)), (0.0, (0.5, 0.5))):
        config = PoolConfig(sampling_temperature=temperature)
        folder = build(tmp_path, big, small, unseen, config=config)
        weights = {pair["dataset"]: pair["weight"] for pair in read(folder, "train")}
        assert (weights["big"], weights["small"]) == pytest.approx(expected)
        assert set(weights) == {"big", "small"}


def test_two_builds_write_the_same_bytes_whatever_the_order_of_the_inputs(tmp_path):
    inputs = [
        write_dataset(tmp_path / "b", [retrieval_row(n) for n in range(40)]),
        write_dataset(tmp_path / "a", labelled_rows(40, ["x", "y", "z"]), kind="clustering"),
    ]
    digests = []
    for order in (inputs, inputs[::-1]):
        folder = build(tmp_path, *order)
        names = [f"{name}.parquet" for name in EXPORTS] + ["statistics.json"]
        digests.append([hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names])
    assert digests[0] == digests[1]
    other = build(tmp_path, *inputs, seed=8)
    assert read(other, "examples") != read(folder, "examples"), "the seed must matter"


@pytest.mark.parametrize("other", [{"memory_limit": "64MB"}, {"threads": 1}, {"threads": 5}])
def test_memory_and_threads_change_no_byte(tmp_path, monkeypatch, other):
    monkeypatch.setattr(pages, "PAGE_TEXTS", 37)
    rows = [retrieval_row(n, negatives=[passage(n + 900), passage(n + 1)]) for n in range(300)]
    rows += [retrieval_row(1000 + n, query=sentence(n) + ".") for n in range(0, 60, 3)]
    rows += [retrieval_row(n, "test", query=sentence(n) + " and more") for n in range(200, 240)]
    source = write_dataset(tmp_path / "data", rows)
    first = build(tmp_path, source)
    monkeypatch.undo()
    second = build(tmp_path, source, config=LENIENT.model_copy(update=other))
    assert statistics(first, "data")["rejected"]["near_duplicate"] >= 15
    assert len(read(first, "train")) > 200
    for name in EXPORTS:
        assert (first / f"{name}.parquet").read_bytes() == (second / f"{name}.parquet").read_bytes(), name


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
def test_negatives_are_put_together_wherever_the_database_cuts_its_batches(rows):
    rng = random.Random(3)
    listed, expected = [], []
    for number in range(23):
        count = rng.choice([0, 0, 1, 2, 9])
        given = [rng.choice([None, 0.5]) if number % 3 else None for _ in range(count)]
        texts = [f"negative {number} {place}" for place in range(count)]
        about = {"pair_id": f"d/{number}", "dataset": f"d{number % 2}", "query": f"q{number}", "label": None}
        listed.append({"number": number, "position": -1, **about, "text": f"p{number}", "score": 1.5})
        nothing = dict.fromkeys(about)
        for place, (text, score) in enumerate(zip(texts, given, strict=True)):
            listed.append({"number": number, "position": 3 * place, **nothing, "text": text, "score": score})
        scores = given if any(score is not None for score in given) else None
        expected.append((f"d/{number}", f"q{number}", f"p{number}", texts, scores, f"do {number % 2}"))
    types = {"number": pa.int64(), "position": pa.int64(), "score": pa.float64()}
    order = ("number", "position", "pair_id", "dataset", "query", "text", "label", "score")
    schema = pa.schema([(name, types.get(name, pa.string())) for name in order])
    batches = pa.Table.from_pylist(listed, schema).to_batches(max_chunksize=rows)
    sources = pa.table(
        {"dataset": ["d1", "d0"], "kind": ["sts"] * 2, "instruction": ["do 1", "do 0"], "weight": [0.5, 0.5]}
    )
    found = (
        pa.concat_tables(export._with_negatives(batches, sources)).cast(export.EXPORTS["train"]).to_pylist()
    )
    columns = ("pair_id", "query", "positive", "negatives", "negative_scores", "instruction")
    assert [tuple(row[name] for name in columns) for row in found] == expected
    assert all(row["response"] == row["positive"] and row["positive_score"] == 1.5 for row in found)


def test_near_duplicates_are_those_of_comparing_every_query_with_all_kept_ones(tmp_path):
    rng = random.Random(4)
    queries = []
    for number in range(400):
        query = sentence(rng.randrange(90), 12) if number % 3 else sentence(number + 500, 12)
        queries.append(query + rng.choice(["", "!", " x", "?"]))
    rows = [retrieval_row(n, query=query) for n, query in enumerate(queries)]
    other = [retrieval_row(n, query=query + ".") for n, query in enumerate(queries[:50])]
    sources = [write_dataset(tmp_path / "data", rows), write_dataset(tmp_path / "other", other)]
    with open_pool(build(tmp_path, *sources)) as connection:
        query = "SELECT row_id, reason, duplicate_of FROM pairs WHERE dataset = 'data' ORDER BY row_id"
        found = connection.execute(query).fetchall()
    kept: dict[str, set[str]] = {}  # pair of a kept query -> its shingles
    verdicts: dict[str, tuple[str | None, str | None]] = {}  # pairs of one query go together
    for (row_id, *verdict), text in zip(found, queries, strict=True):
        if text not in verdicts:
            mine = {text[i : i + 5] for i in range(len(text) - 4)}
            same = [name for name, other in kept.items() if len(mine & other) >= 0.9 * len(mine | other)]
            verdicts[text] = ("near_duplicate", min(same)) if same else (None, None)
            if not same:
                kept[f"data/{row_id}/0"] = mine
        assert tuple(verdict) == verdicts[text]
    assert sum(reason == "near_duplicate" for _, reason, _ in found) > 50


def test_a_limit_that_even_a_small_pool_exceeds_is_named(tmp_path):
    source = write_dataset(tmp_path / "data", [retrieval_row(n) for n in range(3000)])
    with pytest.raises(PoolError, match=r"raise pool\.memory_limit"):
        build(tmp_path, source, config=LENIENT.model_copy(update={"memory_limit": "1MB"}))


def test_too_much_rejected_stops_the_build_and_names_the_reasons(tmp_path):
    rows = [retrieval_row(0), *[retrieval_row(n, query="") for n in range(1, 4)]]
    source = write_dataset(tmp_path / "poisoned", rows)
    with pytest.raises(PoolError, match=r"poisoned: 3 of 4 .*empty_query 3.*max_dropped_fraction"):
        build(tmp_path, source, config=PoolConfig(max_dropped_fraction=0.5))


def test_an_evaluated_only_data_set_may_lose_its_training_rows(tmp_path, caplog):
    poor = write_dataset(tmp_path / "poor", [retrieval_row(n, query="") for n in range(3)], trained=False)
    rich = write_dataset(tmp_path / "rich", [retrieval_row(n) for n in range(10, 14)])
    folder = build(tmp_path, poor, rich, config=PoolConfig())
    assert statistics(folder, "poor")["pairs_out"] == 0
    assert "poor: 3 of 3 training pairs rejected" in caplog.text


@pytest.mark.parametrize("inputs", [0, 1])
def test_an_empty_pool_is_refused(tmp_path, inputs):
    rows = [retrieval_row(n) for n in range(4)]
    sources = [write_dataset(tmp_path / "only-evaluated", rows, trained=False)][:inputs]
    with pytest.raises(PoolError, match="the pool is empty"):
        build(tmp_path, *sources)


def test_a_trained_data_set_without_training_rows_is_refused_by_name(tmp_path):
    no_train = write_dataset(tmp_path / "no-train", [retrieval_row(1, "test")])
    good = write_dataset(tmp_path / "good", [retrieval_row(2)])
    with pytest.raises(PoolError, match="no-train has no training pair left"):
        build(tmp_path, no_train, good)


def test_the_same_name_twice_is_refused(tmp_path):
    source = write_dataset(tmp_path / "data", [retrieval_row(1)])
    with pytest.raises(PoolError, match="found twice: data"):
        build(tmp_path, source, source)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row_id": "train-000001"}, "row train-000001: row_id appears twice"),
        ({"split": "validation"}, "row train-000002: split is not train, dev or test"),
        ({"positive_scores": [0.1, 0.2]}, "one score per positive"),
        ({"negatives": ["x"], "negative_scores": []}, "one score per negative"),
        ({"positive_scores": [float("nan")]}, "not finite"),
    ],
)
def test_a_row_that_breaks_the_format_is_named(tmp_path, change, message):
    source = write_dataset(tmp_path / "data", [retrieval_row(1), retrieval_row(2) | change])
    with pytest.raises(DataError, match=message):
        build(tmp_path, source)


def test_a_damaged_or_missing_file_is_named(tmp_path):
    source = write_dataset(tmp_path / "data", [retrieval_row(1)])
    rows = source.folder / "rows.parquet"
    pq.write_table(pq.read_table(rows).drop_columns(["label"]), rows)
    with pytest.raises(DataError, match=r"rows\.parquet.*missing are \['label'\]"):
        build(tmp_path, source)
    pq.write_table(pa.table({"query": [1]}), rows)
    with pytest.raises(DataError, match="missing are"):
        build(tmp_path, source)
    rows.write_bytes(rows.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        build(tmp_path, source)
    rows.unlink()
    with pytest.raises(DataError, match="is missing"):
        build(tmp_path, source)


def test_a_column_of_another_type_is_named(tmp_path):
    source = write_dataset(tmp_path / "data", [retrieval_row(1)])
    path = source.folder / "rows.parquet"
    table = pq.read_table(path)
    bad = table.set_column(table.schema.get_field_index("score"), "score", pa.array(["high"]))
    pq.write_table(bad, path)
    with pytest.raises(DataError, match="column score should hold double, found string"):
        build(tmp_path, source)


def test_passages_are_the_training_side_of_the_corpus_once(tmp_path):
    rows = [retrieval_row(1), retrieval_row(2, "test")]
    extra = [("train", "A distractor passage"), ("train", "a  distractor PASSAGE"), ("test", "hidden")]
    folder = build(tmp_path, write_dataset(tmp_path / "data", rows, passages=extra))
    found = {item["passage"].lower().replace("  ", " ") for item in read(folder, "passages")}
    assert found == {passage(1).lower(), "a distractor passage"}
    assert len(read(folder, "passages")) == 2


def test_label_texts_are_the_passages_of_label_kinds(tmp_path):
    source = write_dataset(tmp_path / "data", labelled_rows(9, ["x", "y", "z"]), kind="classification")
    folder = build(tmp_path, source)
    assert sorted(item["passage"] for item in read(folder, "passages")) == ["x", "y", "z"]
    assert {pair["response"] for pair in read(folder, "train")} == {"x", "y", "z"}


def test_text_that_is_not_utf8_is_named(tmp_path):
    source = write_dataset(tmp_path / "data", [retrieval_row(1)])
    path = source.folder / "rows.parquet"
    table = pq.read_table(path)
    broken = pa.array([b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(table.set_column(table.schema.get_field_index("query"), "query", broken), path)
    with pytest.raises(DataError, match=r"rows\.parquet: the column query"):
        build(tmp_path, source)


def chinese(queries):
    return [
        retrieval_row(n, query=query, positives=[f"{query}是一种水果，产自第{n}个城市"])
        for n, query in enumerate(queries)
    ]


def test_a_word_of_two_characters_is_long_enough_where_a_character_is_a_syllable(tmp_path):
    queries = ["苹果", "香蕉", "りん", "사과", "猫", "ab", "ก็"]
    folder = build(tmp_path, write_dataset(tmp_path / "words", chinese(queries)))
    assert {pair["query"] for pair in read(folder, "train")} == {"苹果", "香蕉", "りん", "사과"}
    assert statistics(folder, "words")["rejected"] == {"too_short": 3}


def test_the_setting_behind_the_rejections_is_named(tmp_path):
    short = write_dataset(tmp_path / "short", chinese(["猫", "狗", "鸟", "鱼", "苹果"]))
    with pytest.raises(
        PoolError, match=r"too_short 4\).*change pool.min_characters, or raise pool.max_dropped_fraction"
    ):
        build(tmp_path, short, config=PoolConfig())
    none = write_dataset(tmp_path / "none", chinese(["猫", "狗", "鸟"]))
    for share in (0.5, 1.0):  # raising the share would lead nowhere
        with pytest.raises(PoolError, match=r"too_short 3\).*change pool.min_characters") as caught:
            build(tmp_path, none, config=PoolConfig(max_dropped_fraction=share))
        assert "raise pool.max_dropped_fraction" not in str(caught.value)


LONG = {"max_characters": 150, "max_dropped_fraction": 1.0}


def tail(number):
    return "".join(f" tail{number} word{step}" for step in range(20))


def long_dataset(folder):
    rows = [
        retrieval_row(1, negatives=["a negative of usual length", "a long negative" + tail(1)]),
        retrieval_row(2, positives=["THE  long answer" + tail(2)]),
        retrieval_row(3, positives=["the long answer" + tail(2)]),  # the same passage, spelled in another way
        retrieval_row(4, "test", positives=["an evaluated answer" + tail(4)]),
    ]
    passages = [("train", "a long passage" + tail(5)), ("all", "an evaluated answer" + tail(4))]
    return write_dataset(folder, rows, passages=passages)


@pytest.mark.parametrize(("setting", "outcome"), [("drop", "are left out"), ("cut", "are cut there")])
def test_long_texts_are_dropped_or_cut_and_counted_in_the_log_and_for_the_report(
    tmp_path, caplog, setting, outcome
):
    folder = build(tmp_path, long_dataset(tmp_path / "d"), config=PoolConfig(long_texts=setting, **LONG))
    told = f"data set d: 2 pairs, 1 negatives, 4 passages with more than pool.max_characters = 150 characters {outcome}"
    assert told in caplog.text
    found = statistics(folder, "d")
    assert found["long_texts"] == {"pairs": 2, "negatives": 1, "passages": 4}
    header, _ = pool_table({"datasets": {"d": found}})
    assert {"long texts: pairs", "long texts: negatives", "long texts: passages"} <= set(header)
    rows = {pair["query"]: pair for pair in read(folder, "train")}
    texts = [text for pair in rows.values() for text in (pair["positive"], *pair["negatives"])]
    texts += [item["passage"] for item in read(folder, "passages")]
    assert max(map(len, texts)) <= 150
    if setting == "drop":
        assert list(rows) == [sentence(1)] and found["rejected"] == {"too_long": 2}
    else:
        assert len(rows) == 3 and found["rejected"] == {}
        assert rows[sentence(2)]["positive"] == ("THE  long answer" + tail(2))[:150].rstrip()
        assert rows[sentence(1)]["negatives"][1].startswith("a long negative tail1")
        assert not any(text.startswith("an evaluated answer") for text in texts), "compared before it is cut"
    out = tmp_path / "negatives"
    out.mkdir()
    mine_negatives(
        folder, out, Miner(NegativesConfig(per_query=2), 1)
    )  # every positive is among the passages


def test_a_pool_is_the_same_whatever_happens_to_long_texts_if_there_are_none(tmp_path):
    source = write_dataset(tmp_path / "d", [retrieval_row(n) for n in range(9)])
    folders = [build(tmp_path, source, config=PoolConfig(long_texts=how)) for how in ("drop", "cut")]
    for name in ("train", "examples", "passages", "relations"):
        first, second = ((folder / f"{name}.parquet").read_bytes() for folder in folders)
        assert first == second
