"""Mining in shards: the same whatever their size, whenever it was killed, and whatever happened to a file."""

import hashlib
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_embed.config import NegativesConfig
from icl_embed.pool import mining
from icl_embed.pool.candidates import Ranking, kept_ranking
from icl_embed.pool.mining import Miner, in_order, mine_negatives
from icl_embed.pool.mining_task import load_task
from tests.icl_embed.pool.datasets import build, labelled_rows, passage, retrieval_row, write_dataset


def embed(texts, instruction):
    """Vectors that a text's hash decides."""
    seeds = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) for text in texts]
    return np.array([np.random.default_rng(seed).normal(size=8) for seed in seeds], np.float32).reshape(-1, 8)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    home = tmp_path_factory.mktemp("mining")
    rows = [retrieval_row(n) for n in range(60)]
    rows += [retrieval_row(100 + n, positives=[passage(100 + n + k) for k in range(12)]) for n in range(4)]
    for number in range(0, 20):
        rows[number]["negatives"] = [passage(40 + number), passage(59)]
    for number in range(0, 9):
        rows[number] |= {"negative_scores": [0.3, 0.2], "positive_scores": [0.9]}
    labels = labelled_rows(40, [f"label {n}" for n in range(6)])
    return build(
        home,
        write_dataset(home / "facts", rows),
        write_dataset(home / "signals", labels, kind="classification"),
    )


def mined(pool, folder, **settings):
    folder.mkdir()
    shard = settings.pop("shard_queries", 1000)
    config = NegativesConfig(methods=("bm25", "dense"), per_query=5, shard_queries=shard)
    mine_negatives(pool, folder, Miner(config, 3, embed, **settings))
    return pq.read_table(folder / "train.parquet")


def test_written_rows_are_those_that_lists_of_python_give(pool, tmp_path, monkeypatch):
    """The slow and obvious way: every row an object, then sorted by id."""
    monkeypatch.setattr(mining, "WRITTEN_ROWS", 7)
    table = mined(pool, tmp_path / "out")
    source = pq.read_table(pool / "train.parquet").to_pylist()
    expected = []
    for name in ("facts", "signals"):
        task = load_task(pool, name)
        config = NegativesConfig(methods=("bm25", "dense"), per_query=5)
        positions, _ = Miner(config, 3, embed).mine(task)
        rows = [row for row in source if row["dataset"] == name]
        for row, places in zip(rows, positions, strict=True):
            more = [task.passages[place] for place in places if place >= 0]
            row["negatives"] += more
            if row["negative_scores"] is not None:
                row["negative_scores"] += [None] * len(more)
        expected += sorted(rows, key=lambda row: row["pair_id"])
    assert table.to_pylist() == expected
    ids = [row["pair_id"] for row in source]
    assert [row["pair_id"] for row in expected] != ids, "the order of the ids is not that of the pool"


@pytest.mark.parametrize("shard", [1, 7])
def test_the_size_of_shards_changes_nothing(pool, tmp_path, shard):
    whole = mined(pool, tmp_path / "whole")
    assert mined(pool, tmp_path / "parts", shard_queries=shard, work_dir=tmp_path / "work").equals(whole)


def test_a_task_is_what_its_files_say(pool):
    task = load_task(pool, "facts")
    rows = [row for row in pq.read_table(pool / "train.parquet").to_pylist() if row["dataset"] == "facts"]
    for pair, row_number in enumerate(task.pair_row):
        row = rows[row_number]
        assert task.pair_ids[row_number] == row["pair_id"]
        assert task.queries[task.pair_query[pair]] == row["query"]
        assert task.passages[task.pair_positive[pair]] == row["positive"]
        assert [task.passages[place] for place in task.given.of(row_number)] == row["negatives"]
        related = {
            task.passages[place] for place in task.related.of(task.key_of_query[task.pair_query[pair]])
        }
        assert row["positive"] in related
    assert sorted(task.queries) == list(task.queries)


@settings(max_examples=50, deadline=None)
@given(st.permutations(list(range(23))), st.integers(1, 9), st.integers(1, 30))
def test_rows_come_in_another_order_from_batches_of_any_size(order, batch, written):
    table = pa.table({"number": list(range(23))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mining, "WRITTEN_ROWS", written)
        batches = (table.slice(start, batch) for start in range(0, 23, batch))
        parts = list(in_order(batches, np.array(order)))
    assert [n for part, _ in parts for n in part.column("number").to_pylist()] == order
    assert [n for _, rows in parts for n in rows.tolist()] == order


def ranking(value):
    return Ranking(np.full((2, 3), value, np.int32), np.ones((2, 3), np.float32), np.ones(4, np.float32))


def test_a_kept_ranking_is_read_again_and_a_damaged_or_foreign_one_made_again(tmp_path, caplog):
    path = tmp_path / "work" / "one.ranking"
    assert kept_ranking(path, "a", lambda: ranking(1)).passages[0, 0] == 1
    kept = kept_ranking(path, "a", lambda: ranking(2))
    assert kept.passages.tolist() == ranking(1).passages.tolist()
    assert kept.positive_scores.dtype == np.float32
    assert kept_ranking(path, "b", lambda: ranking(3)).passages[0, 0] == 3, "of other queries or settings"
    for damage in (
        lambda data: data[:-1],
        lambda data: data[:-1] + b"\x07",
        lambda data: b"",
        lambda data: b"{}",
    ):
        path.write_bytes(damage(path.read_bytes()))
        assert kept_ranking(path, "b", lambda: ranking(4)).passages[0, 0] == 4
        assert "is ranked again" in caplog.text
        caplog.clear()


KILLED = """
import sys, time
from pathlib import Path
from icl_embed.config import NegativesConfig
from icl_embed.pool import candidates
from icl_embed.pool.mining import Miner, mine_negatives
from icl_embed.progress import listening
from tests.icl_embed.pool.test_mining import embed

pool, out, work = map(Path, sys.argv[1:])
out.mkdir(exist_ok=True)
rank = candidates.ByScores.rank

def counted(self, task, first, last):
    print("ranking", task.name, first, flush=True)
    time.sleep(0.05)
    return rank(self, task, first, last)

candidates.ByScores.rank = counted
mine_negatives(pool, out, Miner(NegativesConfig(per_query=5, shard_queries=4), 3, work_dir=work))
print("done", flush=True)
"""


def test_a_killed_run_goes_on_and_writes_the_same_bytes(pool, tmp_path):
    def start(out, work):
        command = [sys.executable, "-c", KILLED, str(pool), str(tmp_path / out), str(tmp_path / work)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with start("out", "work") as process:
        for _ in range(5):
            assert "ranking" in process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    kept = len(list((tmp_path / "work").glob("*.ranking")))
    assert kept >= 4
    with start("out", "work") as process:
        again, error = process.communicate()
    assert "done" in again, error
    with start("whole", "other") as process:
        whole, _ = process.communicate()
    assert whole.count("ranking") - again.count("ranking") == kept, "what was ranked is not ranked again"
    files = [(tmp_path / name / "train.parquet").read_bytes() for name in ("out", "whole")]
    assert files[0] == files[1]
