"""The rows bench: what it makes up, what it watches, what it says."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq

from icl_embed.train.rows import read_training_sets
from tests.bench.rows import summarise
from tests.bench.rows_material import LABELS, write_rows
from tests.bench.rows_watch import Watched, memory_of


def test_rows_are_of_three_kinds_and_queries_differ(tmp_path: Path) -> None:
    sets = read_training_sets(write_rows(tmp_path / "train.parquet", 200, 15), tmp_path)
    assert [(one.kind, len(one.rows)) for one in sets] == [
        ("classification", 20),
        ("retrieval", 160),
        ("sts", 20),
    ]
    assert len(set(pq.read_table(tmp_path / "train.parquet")["query"].to_pylist())) == 200
    assert all(len(row.negatives) == 15 for one in sets for row in one.rows)
    assert set(sets[0].positions_by_label) <= set(LABELS)


def test_memory_is_what_the_kernel_says() -> None:
    held = b"1" * 50_000_000
    found = memory_of(os.getpid())
    assert found["VmHWM"] >= found["VmRSS"] >= found["RssAnon"] >= len(held) / 2**20
    assert memory_of(2**30) == {}
    looks = iter([False, False, True])
    peaks = Watched(os.getpid()).until(lambda: next(looks))
    assert peaks["peak_mib"] >= peaks["peak_own_mib"] > 40


def test_the_figure_promised_is_the_largest_growth() -> None:
    def at(rows: int, rank: int, worker: int) -> dict[str, object]:
        speed = {"in_line": 2.0, "worker": 3.0}
        now = {
            "rank": {"peak_mib": rank, "peak_own_mib": 100}, "worker": {"peak_mib": 100, "peak_own_mib": worker},
            "steps_per_cpu_second": speed,
        }  # fmt: skip
        return {"rows": rows, "now": now}

    before = {"before": {"steps_per_cpu_second": {"in_line": 1.0, "worker": 4.0}}}
    found = summarise([{**at(10, 100, 100), **before}, at(2000, 101, 110)])
    assert found["peak_2m_vs_10k"] == 1.1
    assert found["speed_vs_before"] == {"10": {"in_line": 2.0, "worker": 0.75}}
