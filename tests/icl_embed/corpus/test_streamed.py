"""Rows of collections: against the slow path where both read the same, and against bad rows."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icl_embed.config import PoolConfig
from icl_embed.corpus.dataset import build_dataset
from icl_embed.corpus.streamed import _distinct
from icl_embed.errors import ConfigError, DataError
from icl_embed.pool.build import build_pool
from icl_embed.pool.inputs import PoolInput
from icl_embed.sources.collection import Collection
from icl_embed.sources.collection_index import cards_of
from tests.icl_embed.corpus.cards import build, write_card, write_jsonl
from tests.icl_embed.corpus.published import EXAMPLES, PROMPTS, row, write_examples
from tests.icl_embed.sources.hub_site import parquet

COUNTERS = {"max_train_rows": 1_000_000, "max_test_queries": 1, "max_test_passages": 1}


def local(folder, **more):
    said = {"name": "mine", "layout": "collection", "title": "Mine", "licence": "CC0-1.0", "homepage": ""}
    source = {"kind": "local", "path": "data"}
    return Collection.model_validate({**said, "source": source, "folder": folder, **more})


def written(folder, *rows, name="a.jsonl", **more):
    """(counts, rows) of one split with these rows."""
    path = folder / "data" / name
    if name.endswith(".parquet"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(parquet(rows))
    else:
        write_jsonl(path, rows)
    (card,) = cards_of(local(folder, **more), folder).values()
    return built(card, folder)


def built(card, folder, **limits):
    counts = build_dataset(card, folder / "downloads", folder / "out", **{**COUNTERS, **limits})
    return counts, pq.read_table(folder / "out" / "rows.parquet").to_pylist()


def test_the_eight_example_files_of_the_reference_are_eight_data_sets(tmp_path):
    write_examples(tmp_path / "data")
    cards = cards_of(local(tmp_path), tmp_path)
    assert set(cards) == {f"mine/{name.split('/')[1].removesuffix('.jsonl')}" for name in EXAMPLES}
    for name, card in cards.items():
        counts, rows = built(card, tmp_path / name)
        assert counts["rows"] == {"train": 10, "dev": 0, "test": 0} and counts["rejected"] == {}
        assert card.instruction == PROMPTS[card.type]
        first = rows[0]
        if card.kind == "classification":
            assert first["label"] == "This review has 0 stars." and first["negatives"] == [
                "This review has 1 stars."
            ]
        elif card.kind == "clustering":
            assert first["label"] == "cs.0 math.0"
            assert first["positives"] == [f"a title near {name.removeprefix('mine/')} 0"]
        else:
            assert first["label"] is None and first["negatives"]
        assert first["score"] == (1.0 if card.kind in ("sts", "pair_classification") else None)
        scored = name in ("mine/msmarco", "mine/nli")
        assert first["positive_scores"] == ([97.5] if scored else None)
        assert first["negative_scores"] == ([97.5] * len(first["negatives"]) if scored else None)


@pytest.mark.parametrize(
    "kind", ["normal", "only_1neg", "symmetric_sts", "symmetric_class", "symmetric_clustering"]
)
def test_parquet_and_lines_say_the_same(tmp_path, kind):
    rows = [row(kind, number) for number in range(700)]
    lines = written(tmp_path / "a", *rows)
    assert written(tmp_path / "b", *rows, name="a-00000-of-00001.parquet") == lines
    assert len(lines[1]) == 700


def test_retrieval_rows_are_those_of_the_slow_path(tmp_path):
    rows = [
        row("normal", number, query=f" q{number} ", pos=[f"p{number}", " ", f" r{number}"])
        for number in range(600)
    ]
    for one in rows[::3]:
        one |= {"pos_scores": [0.5, 0.25, 0.75], "neg_scores": [0.125, -1.0]}
    rows += [row("normal", 1, query=""), row("normal", 2, query="x", pos=[])]
    counts, streamed = written(tmp_path / "a", *rows)
    write_jsonl(
        tmp_path / "b" / "data" / "a.jsonl",
        [{k: v for k, v in one.items() if not (k.endswith("_scores") and not v)} for one in rows],
    )
    body = "[splits]\ntrain = 1.0\ntest = 0.0\n"
    slow_counts, slow = build(
        write_card(tmp_path / "b", "retrieval", body, layout="flagembedding"), tmp_path / "b"
    )

    def by_query(found):
        return {one["query"]: {k: v for k, v in one.items() if k != "row_id"} for one in found}

    assert by_query(streamed) == by_query(slow)
    assert counts["available"] == slow_counts["available"]
    for reason in ("empty query", "no positive"):
        assert counts["rejected"][reason] == slow_counts["rejected"][reason] == 1


def test_a_cap_takes_the_rows_that_the_slow_path_takes_and_keeps_the_order_of_the_files(tmp_path):
    rows = [row("normal", number) for number in range(500)]
    write_jsonl(tmp_path / "data" / "a.jsonl", rows)
    (card,) = cards_of(local(tmp_path), tmp_path).values()
    counts, found = built(card, tmp_path, max_train_rows=50)
    body = "[splits]\ntrain = 1.0\ntest = 0.0\n"
    for one in rows:
        del one["pos_scores"], one["neg_scores"]
    write_jsonl(tmp_path / "slow" / "data" / "a.jsonl", rows)
    card = write_card(tmp_path / "slow", "retrieval", body, layout="flagembedding")
    _, slow = build(card, tmp_path / "slow", max_train_rows=50)
    assert {one["query"] for one in found} == {one["query"] for one in slow}
    numbers = [int(one["query"].split()[1]) for one in found]
    assert numbers == sorted(numbers) and len(numbers) == 50
    assert [one["row_id"] for one in found] == [f"train-{number:06d}" for number in range(50)]
    assert counts["available"]["train"] == 500


def test_duplicates_go_over_the_bounds_of_batches_and_shards(tmp_path):
    rows = [row("normal", number % 400) for number in range(1_000)]
    for number, part in enumerate((rows[:500], rows[500:])):
        write_jsonl(tmp_path / "data" / f"a-0000{number}-of-00002.jsonl", part)
    (card,) = cards_of(local(tmp_path), tmp_path).values()
    counts, found = built(card, tmp_path)
    assert len(found) == 400 and counts["rejected"] == {"duplicate": 600}


def test_the_same_text_with_two_labels_teaches_nothing(tmp_path):
    two = [row("symmetric_class", 1, query="Straße"), row("symmetric_class", 2, query="STRASSE")]
    counts, found = written(tmp_path, *two, row("symmetric_class", 3), row("symmetric_class", 3))
    assert [one["query"] for one in found] == ["text 3 of symmetric_class"]
    assert counts["rejected"] == {"duplicate": 1, "same text with two labels": 2}


def test_distinct_is_what_a_dictionary_says():
    rng = np.random.default_rng(0)
    for _ in range(50):
        keys, values = rng.integers(0, 12, 40).astype(np.uint64), rng.integers(0, 2, 40).astype(np.uint64)
        seen = {}
        for key, value in zip(keys.tolist(), values.tolist(), strict=True):
            seen.setdefault(key, set()).add(value)
        expected, taken = [], set()
        for key in keys.tolist():
            expected.append(len(seen[key]) == 1 and key not in taken)
            taken.add(key)
        assert _distinct(keys, values, Counter()).tolist() == expected


@pytest.mark.parametrize("name", ["a.jsonl", "a-00000-of-00001.parquet"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"pos": ["a", "b"], "pos_scores": [1.0, 2.0, 3.0]}, "record 3: 3 positive scores for 2 positives"),
        ({"neg_scores": [1.0]}, "record 3: 1 negative scores for 2 negatives"),
        (
            {"type": "symmetric_sts"},
            r"record 3: its type is 'symmetric_sts'; .*'normal'.*kinds = \{ \"a\" = KIND \}",
        ),
        ({"type": "magic"}, "'magic', which is not known; known are normal, only_1neg"),
        ({"prompt": "Other"}, r"record 3: its prompt is 'Other'; .*instructions = \{ \"a\""),
        ({"query": "a\0b"}, "record 3: (holds a NUL|a query holds a NUL)"),
        ({"neg": ["x", "\0"]}, "record 3: (holds a NUL|a negative holds a NUL)"),
    ],
)
def test_a_row_that_breaks_the_form_is_named(tmp_path, name, bad, message):
    with pytest.raises(DataError, match=message) as caught:
        written(tmp_path, row("normal", 1), row("normal", 2), row("normal", 3, **bad), name=name)
    assert name in str(caught.value)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), None])
def test_a_score_that_is_no_number_is_named(tmp_path, score):
    rows = [row("normal", 1), row("normal", 2, pos_scores=[score])]
    with pytest.raises(DataError, match="record 2: a positive score is no finite number"):
        written(tmp_path, *rows, name="a-00000-of-00001.parquet")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"pos": "one text"}, "pos should be a list of texts, found 'one text'"),
        ({"pos": [1]}, "pos should be a list of texts"),
        ({"query": {"a": 1}}, "query should be a text"),
        ({"pos_scores": ["high"]}, "pos_scores should be a list of numbers"),
        ({"pos_scores": [True]}, "pos_scores should be a list of numbers"),
    ],
)
def test_lines_of_other_types_are_named(tmp_path, bad, message):
    with pytest.raises(DataError, match=f"a.jsonl, record 2: {message}"):
        written(tmp_path, row("normal", 1), row("normal", 2, **bad))


def test_a_shard_without_the_columns_is_told_with_what_it_has(tmp_path):
    (tmp_path / "data").mkdir()
    data = parquet([{"text": "a", "prompt": "P"}], pa.schema({"text": pa.string(), "prompt": pa.string()}))
    (tmp_path / "data" / "a.parquet").write_bytes(data)
    (card,) = cards_of(local(tmp_path), tmp_path).values()
    with pytest.raises(DataError, match="no column query and pos; it has: text, prompt"):
        built(card, tmp_path)


def test_useless_rows_are_counted_and_a_split_of_none_but_these_is_an_error(tmp_path):
    empty = [row("normal", 1, pos=[]), row("normal", 2, pos=["", " "]), row("normal", 3, pos=None)]
    counts, found = written(tmp_path / "a", *empty, row("normal", 4, neg=None))
    assert counts["rejected"] == {"no positive": 3} and found[0]["negatives"] == []
    with pytest.raises(DataError, match=r"mine/a: no row is left; rejected: no positive \(3\)"):
        written(tmp_path / "b", *empty)
    counts, _ = written(tmp_path / "c", row("normal", 1), row("normal", 2, neg=[]), kinds={"a": "reranking"})
    assert counts["rejected"] == {"no negative": 1}
    counts, _ = written(
        tmp_path / "d", row("symmetric_clustering", 1), row("symmetric_clustering", 2, category=None)
    )
    assert counts["rejected"] == {"no label": 1}


def test_a_card_that_says_kind_and_instruction_takes_rows_of_all_types(tmp_path):
    rows = [row("normal", 1), row("only_1neg", 2, prompt="Other")]
    _, found = written(tmp_path, *rows, kinds={"*": "retrieval"}, instructions={"a": "Find it"})
    assert len(found) == 2


def test_the_same_files_give_the_same_bytes(tmp_path):
    rows = [row("symmetric_sts", number) for number in range(300)]
    written(tmp_path, *rows)
    first = (tmp_path / "out" / "rows.parquet").read_bytes()
    written(tmp_path, *rows)
    assert (tmp_path / "out" / "rows.parquet").read_bytes() == first


def test_an_unknown_name_is_a_mistake(tmp_path):
    write_jsonl(tmp_path / "data" / "a.jsonl", [row("normal", 1, type="chat")])
    with pytest.raises(ConfigError, match="'chat', which is not known"):
        cards_of(local(tmp_path), tmp_path)


PEAK = """
import json, resource, sys
from pathlib import Path
from icl_embed.corpus.dataset import build_dataset
from icl_embed.sources.collection import Collection
from icl_embed.sources.collection_index import cards_of
folder = Path(sys.argv[1])
collection = Collection.model_validate({"name": "mine", "layout": "collection", "title": "M", "licence": "x",
    "homepage": "", "source": {"kind": "local", "path": "data"}, "folder": folder})
card = cards_of(collection, folder)["mine/" + sys.argv[2]]
build_dataset(card, folder, folder / "out", max_train_rows=10**9, max_test_queries=1, max_test_passages=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_texts(tmp_path):
    """150 MB of rows more need no more than a row group and the numbers of the rows."""
    for name, count in (("small", 2_000), ("large", 12_000)):
        (tmp_path / "data").mkdir(exist_ok=True)
        rows = (
            row("normal", n, name=name, neg=[f"{n} {k} " + "word " * 300 for k in range(10)])
            for n in range(count)
        )
        with (tmp_path / "data" / f"{name}.jsonl").open("w") as file:
            file.writelines(json.dumps(one) + "\n" for one in rows)
    peaks = {}
    for name in ("small", "large"):
        command = [sys.executable, "-c", PEAK, str(tmp_path), name]
        peaks[name] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert peaks["large"] - peaks["small"] < 130_000  # KiB; all rows as Python objects take more than 180,000


def test_what_the_rows_give_reaches_the_training_rows_of_the_pool(tmp_path):
    """Given negatives and scores of every type; of clusters the label alone, as the pool pairs a text with it."""
    write_examples(tmp_path / "data", rows=40)
    inputs = []
    for name, card in cards_of(local(tmp_path), tmp_path).items():
        built(card, tmp_path / name)
        folder = tmp_path / name / "out"
        inputs.append(PoolInput(name, card.kind, card.instruction, folder, trained=True, fingerprint=name))
    (tmp_path / "pool").mkdir()
    config = PoolConfig(near_duplicate_threshold=1.0, max_dropped_fraction=1.0)
    counts = build_pool(inputs, config, tmp_path / "pool", seed=0)
    assert set(counts["pairs"].values()) == {40}
    rows = {one["pair_id"]: one for one in pq.read_table(tmp_path / "pool" / "train.parquet").to_pylist()}
    reviews = rows["mine/AmazonClassification/train-000000/0"]
    assert (reviews["positive"], reviews["negatives"]) == (
        "This review has 0 stars.",
        ["This review has 1 stars."],
    )
    assert len(rows["mine/sts/train-000000/0"]["negatives"]) == 20
    inference = rows["mine/nli/train-000003/0"]
    assert (inference["positive_score"], inference["negative_scores"]) == (94.5, [94.5])
    cluster = rows["mine/arXiv_title/train-000000/0"]
    assert (cluster["positive"], cluster["negatives"]) == ("cs.0 math.0", [])
