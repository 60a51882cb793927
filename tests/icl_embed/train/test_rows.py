"""Rows that are mapped from a file are those of ``train.parquet``, and cost next to nothing to hold or hand on."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_embed.config import TrainConfig
from icl_embed.errors import StoreError, TrainingError
from icl_embed.pool.export import EXPORTS
from icl_embed.train import row_file
from icl_embed.train.embedder.prepare import StepBuilder
from icl_embed.train.row_file import ROWS_NAME, copy_rows, open_rows
from icl_embed.train.rows import Row, read_training_sets
from tests.made_rows import made_set, write_records
from tests.training_jobs import write_rows

TEXT = st.text(max_size=12).map(lambda text: text.encode("utf-8", "replace").decode())
SCORE = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def records(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows as mining may write them: blank texts, no negatives, scores of some, of all, of none."""
    rows = []
    for name in draw(st.lists(st.sampled_from("cab"), unique=True, min_size=1)):
        for number in range(draw(st.integers(1, 6))):
            negatives = draw(st.lists(TEXT, max_size=4))
            scores = st.lists(SCORE, min_size=len(negatives), max_size=len(negatives))
            rows.append(
                {
                    "pair_id": f"{name}{number}", "dataset": name, "kind": "sts", "instruction": draw(TEXT),
                    "query": draw(TEXT), "positive": draw(TEXT), "negatives": draw(st.sampled_from([negatives, None]))
                    if not negatives else negatives, "label": draw(st.none() | TEXT), "response": draw(TEXT),
                    "positive_score": draw(SCORE), "negative_scores": draw(st.none() | scores), "weight": 0.5,
                }
            )  # fmt: skip
    return rows


def read_slowly(path: Path) -> dict[str, list[Row]]:
    """Every row at once as Python objects: how it was done before rows were mapped."""
    found: dict[str, list[Row]] = {}
    for record in pq.read_table(path).to_pylist():
        row = Row(
            query=record["query"],
            positive=record["positive"],
            response=record["response"],
            label=record["label"] or "",
            negatives=tuple(record["negatives"] or ()),
            positive_score=record["positive_score"],
            negative_scores=tuple(record["negative_scores"] or ()),
        )
        found.setdefault(record["dataset"], []).append(row)
    return dict(sorted(found.items()))


@settings(max_examples=60, deadline=None)
@given(records())
def test_mapped_rows_are_those_of_the_table(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_file, "BATCH_ROWS", 3)
        path = Path(folder) / "train.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=EXPORTS["train"]), path, row_group_size=4)
        found = read_training_sets(path, Path(folder))
        expected = read_slowly(path)
    assert {one.name: list(one.rows) for one in found} == expected
    assert [one.name for one in found] == list(expected)
    for one in found:
        mine = expected[one.name]
        first = next(row for row in rows if row["dataset"] == one.name)
        assert (one.kind, one.instruction, one.weight) == ("sts", first["instruction"], 0.5)
        numbers: dict[str, list[int]] = {}
        for number, row in enumerate(mine):
            numbers.setdefault(row.label, []).append(number)
            assert (one.rows.query(number), one.rows.label(number)) == (row.query, row.label)
        assert list(numbers) == list(one.positions_by_label)
        assert numbers == {label: list(spots) for label, spots in one.positions_by_label.items()}
        useful = [row for row in mine if any(text.strip() and text != row.positive for text in row.negatives)]
        assert one.num_with_negative == len(useful)
        assert list(one.with_negatives().rows) == useful
        assert list(one.rows[::-2]) == mine[::-2]
        assert list(one.with_negatives().rows[1:]) == useful[1:]


def test_every_space_of_python_is_blank() -> None:
    spaces = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]
    rows = [Row("q", "p", "p", "", (space,)) for space in (*spaces, "p")]
    assert made_set("s", "sts", "i", 1.0, rows).num_with_negative == 0


def test_what_goes_to_a_worker_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    sizes = []
    for count in (50, 5000):
        folder = tmp_path / str(count)
        folder.mkdir()
        sets = read_training_sets(write_rows(folder / "train.parquet", rows_per_set=count), folder)
        config = TrainConfig(batch_size=8, optimizer={"steps": 100 * count, "warmup_steps": 0})  # type: ignore[arg-type]
        builder = StepBuilder(Roomy(), sets, config, seed=1)  # type: ignore[arg-type]
        assert all(one.positions_by_label for one in sets)  # what was worked out is not sent
        data = pickle.dumps(builder)
        sizes.append(len(data))
        again = pickle.loads(data)
        assert again._plan[99] == builder._plan[99]
        assert [list(one.rows[:9]) for one in again._training_sets] == [list(one.rows[:9]) for one in sets]
    assert sizes[0] < 4000 and abs(sizes[1] - sizes[0]) < 100


class Roomy:
    """Stands for the prompts, whose tokenizer has its own size."""

    class budgets:  # noqa: N801
        total_tokens, query_tokens = 2, 1


def test_nothing_is_read_into_memory_and_pages_are_let_go(tmp_path: Path) -> None:
    rows = [Row(f"q{number} " + "word " * 400, "p", "p", "", ("n",)) for number in range(6000)]
    before = pa.total_allocated_bytes()
    one = made_set("s", "retrieval", "i", 1.0, rows)
    assert one.rows.file.table.nbytes > 12e6
    assert pa.total_allocated_bytes() - before < 1e5
    for number in range(0, 6000, 2):
        assert one.rows[number].query.startswith(f"q{number} ")
    held = file_pages_kb()
    one.rows.release()
    assert held - file_pages_kb() > 5000
    assert one.rows[4001] == rows[4001]


def file_pages_kb() -> int:
    [line] = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("RssFile")]
    return int(line.split()[1])


def test_datasets_opens_the_same_file(tmp_path: Path) -> None:
    sets = read_training_sets(write_rows(tmp_path / "train.parquet"), tmp_path)
    seen = datasets.Dataset.from_file(str(tmp_path / ROWS_NAME))
    assert seen["query"][:40] == [row.query for one in sets if one.name == "facts" for row in one.rows]


def test_a_copy_is_made_once_and_again_for_other_rows_or_a_damaged_one(tmp_path: Path) -> None:
    rows, path = write_rows(tmp_path / "train.parquet"), tmp_path / ROWS_NAME
    first = [list(one.rows) for one in read_training_sets(rows, tmp_path)]
    number = path.stat().st_ino
    assert all(len(one.rows) == 40 for one in read_training_sets(rows, tmp_path))
    assert path.stat().st_ino == number
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[: len(whole) // 2])
    again = read_training_sets(rows, tmp_path)
    assert [list(one.rows) for one in again] == first
    write_rows(rows, rows_per_set=41)
    assert all(len(one.rows) == 41 for one in read_training_sets(rows, tmp_path))


@pytest.mark.parametrize("damage", ["empty", "half", "no end", "head", "stranger", "text"])
def test_a_damaged_file_is_refused_with_what_to_do(tmp_path: Path, damage: str) -> None:
    sets = read_training_sets(write_rows(tmp_path / "train.parquet", rows_per_set=1000), tmp_path)
    query = sets[0].rows[3].query.encode()
    path = tmp_path / ROWS_NAME
    whole = path.read_bytes()
    path.unlink()  # a mapped file that is cut would end the process
    if damage == "stranger":
        with pa.ipc.new_stream(str(path), pa.schema({"a": pa.int64()})) as writer:
            writer.write_table(pa.table({"a": [1]}))
    elif damage == "no end":  # at the border of two batches, where a stream may end
        sizes = [len(batch.serialize()) for batch in pa.ipc.open_stream(pa.py_buffer(whole))]
        path.write_bytes(whole[: len(whole) - 8 - sizes[-1]])
    else:
        cut = {"empty": b"", "half": whole[: len(whole) // 2], "head": b"\xff" * 64 + whole[64:]}
        path.write_bytes(cut.get(damage, whole.replace(query, b"\xff" * len(query))))
    with pytest.raises(TrainingError, match=r"(?s)damaged.*delete the file and run again"):
        for number, place in enumerate(open_rows(path).about.data_sets):
            assert number < 3
            _ = [row.query for row in row_of(path, place.first, place.count)]


def row_of(path: Path, first: int, count: int) -> Any:
    from icl_embed.train.rows import Rows

    return Rows(open_rows(path), range(first, first + count))


KILLED = """
import sys, time
from pathlib import Path
from icl_embed.train import row_file
row_file.BATCH_ROWS = 10
prepare, count = row_file.prepared, 0
def slow(batch):
    global count
    count += 1
    if count == 5:
        print("half way", flush=True)
        time.sleep(60)
    return prepare(batch)
row_file.prepared = slow
row_file.copy_rows(Path(sys.argv[1]), Path(sys.argv[2]), None)
"""


def test_a_copy_that_was_killed_is_never_mapped_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    rows, work = write_rows(tmp_path / "train.parquet"), tmp_path / "work"
    command = [sys.executable, "-c", KILLED, str(rows), str(work / ROWS_NAME)]
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert process.stdout is not None and process.stdout.readline() == "half way\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    [left] = work.iterdir()
    assert "partial" in left.name
    assert sum(len(one.rows) for one in read_training_sets(rows, work)) == 120
    assert [path.name for path in work.iterdir()] == [ROWS_NAME]


FULL = """
import resource, signal, sys
from pathlib import Path
from icl_embed.errors import StoreError
from icl_embed.train.row_file import copy_rows
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    copy_rows(Path(sys.argv[1]), Path(sys.argv[2]), None)
except StoreError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    rows, work = write_rows(tmp_path / "train.parquet"), tmp_path / "work"
    command = [sys.executable, "-c", FULL, str(rows), str(work / ROWS_NAME)]
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}, check=True
    )
    assert "cannot write" in done.stdout and "nothing was changed" in done.stdout
    assert not list(work.iterdir())


def test_too_little_room_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(row_file.shutil, "disk_usage", lambda _folder: free)
    with pytest.raises(StoreError, match=r"at least 0.0 GB, .* free; free space, or set paths.store"):
        read_training_sets(write_rows(tmp_path / "train.parquet"), tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())


GOOD: dict[str, Any] = {
    "dataset": "a", "kind": "sts", "instruction": "i", "weight": 1.0, "query": "q", "positive": "p",
    "response": "r", "label": None, "negatives": ["n"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            [{**GOOD, "negative_scores": [1.0, 2.0]}],
            "data set a has 2 teacher scores for 1 negatives in .*'q'",
        ),
        ([GOOD, {**GOOD, "query": None}], "data set a has no query"),
        ([GOOD, {**GOOD, "negatives": ["n", None]}], "data set a has a negative without text .*'q'"),
        ([GOOD, {**GOOD, "dataset": "b"}, GOOD], "in one piece, found some of a after those of b"),
        ([{**GOOD, "kind": "poetry"}], "(?s)not described as it should be.*kind"),
        ([{**GOOD, "negatives": 7}], "training rows are not as they should be"),
        (
            [{name: value for name, value in GOOD.items() if name != "positive"}],
            r"missing are \['positive'\]",
        ),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(
    tmp_path: Path, rows: list[dict[str, Any]], told: str
) -> None:
    with pytest.raises(TrainingError, match=told):
        read_training_sets(write_records(tmp_path / "train.parquet", rows), tmp_path)
    assert not (tmp_path / ROWS_NAME).exists()


def test_a_table_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(random.Random(0).randbytes(1000))
    with pytest.raises(TrainingError, match=r"cannot be read.*build the negatives again"):
        copy_rows(tmp_path / "train.parquet", tmp_path / ROWS_NAME, None)
    with pytest.raises(TrainingError, match="cannot be read"):
        copy_rows(tmp_path / "none.parquet", tmp_path / ROWS_NAME, None)


def test_what_is_far_is_told_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(row_file, "BATCH_ROWS", 50)
    monkeypatch.setattr(row_file, "SAY_EVERY_SECONDS", 0.0)
    with caplog.at_level("INFO"):
        read_training_sets(write_rows(tmp_path / "train.parquet"), tmp_path)
    assert caplog.messages[-1] == "training rows: 120 of 120 copied"
