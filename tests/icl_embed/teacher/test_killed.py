"""Scoring that dies at any moment publishes nothing, and the next run scores only what is missing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from icl_embed.store import StageKey, Store
from icl_embed.teacher.scores import read_teacher_scores
from tests.icl_embed.teacher.rows import write_rows

pytestmark = pytest.mark.fault

KEY = StageKey("teacher-scores", 1, {})
SCORE = """
import sys, time
from functools import partial
from pathlib import Path
from icl_embed.store import StageKey, Store
from icl_embed.teacher.scoring import Teacher, score_training_pairs
from tests.icl_embed.teacher.rows import KINDS, TEACHER, score

home, store, key = Path(sys.argv[1]), Store(Path(sys.argv[1]) / sys.argv[2]), StageKey("teacher-scores", 1, {})

def slowly(pairs):
    time.sleep(0.2)
    return score(pairs)

store.build(key, lambda out: score_training_pairs(
    home / "train.parquet", out, store.work_dir(key), Teacher(TEACHER, slowly), kinds=KINDS, shard_pairs=4,
    on_line=partial(print, flush=True),
))
print("published", flush=True)
"""


def start(home: Path, store: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCORE, str(home), store],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_killed_run_goes_on_without_repeating_finished_shards(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet")
    with start(tmp_path, "untouched") as process:
        assert "published" in process.stdout.read()
    for moment, number in (("1/8", signal.SIGKILL), ("5/8", signal.SIGKILL), ("3/8", signal.SIGTERM)):
        name = f"{moment[0]}-{number}"
        with start(tmp_path, name) as process:
            for line in process.stdout:
                if line.startswith(f"shard {moment}"):
                    break
            process.send_signal(number)
            rest = process.stdout.read()
        store = Store(tmp_path / name)
        assert process.returncode == -number and "published" not in rest, "the fault did not fire"
        assert not store.is_valid(KEY)
        with start(tmp_path, name) as process:
            output = process.stdout.read()
        assert "published" in output
        assert output.count("(scored before)") >= int(moment[0])
        assert "scored before" not in output.split("shard 8/8")[1], "the last shard was never reached before"
        folder, untouched = store.path_of("teacher-scores", KEY.fingerprint), Store(tmp_path / "untouched")
        expected = untouched.path_of("teacher-scores", KEY.fingerprint)
        for path in expected.glob("*.parquet"):
            assert path.read_bytes() == (folder / path.name).read_bytes()
        assert len(read_teacher_scores(folder)) == 31
        assert not store.work_dir(KEY).exists()
