"""What gc keeps: what lives, what anything kept was made from, and what somebody will want to go on with."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from icl_embed.cli.store import app
from icl_embed.store import Artefact, StageKey, Store
from icl_embed.store.lineage import ancestors
from icl_embed.store.sweep import Found, remove, survey
from tests.icl_embed.store.test_lineage import build, chain

RUNNING = """
import sys, time
from pathlib import Path
from icl_embed.store import StageKey, Store

store, key = Store(Path(sys.argv[1])), StageKey("embedder", 1, {"seed": 1}, {"pool": sys.argv[2]}, "running")

def produce(folder):
    (folder / "half").write_text("x")
    store.work_dir(key).mkdir(exist_ok=True)
    (store.work_dir(key) / "checkpoint").write_text("x")
    print(key.fingerprint, flush=True)
    time.sleep(60)

store.build(key, produce)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def look(store: Store, *, keep_reports: int = 1, unfinished: bool = False) -> list[Found]:
    return survey(store, keep_reports=keep_reports, min_age_hours=0, unfinished=unfinished)


def going(found: list[Found]) -> set[Path]:
    return {one.path for one in found if one.goes}


def a_second() -> None:
    time.sleep(1.1)  # manifests count seconds


@contextmanager
def running_build(store: Store, pool: Artefact) -> Iterator[tuple[int, str]]:
    """A process that builds an embedder from a pool and does not end by itself."""
    argv = [sys.executable, "-c", RUNNING, str(store.root), pool.reference]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.pid, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def checkpoint(store: Store, key: StageKey, step: int) -> Path:
    """A work folder as training leaves it when it is killed."""
    work = store.work_dir(key)
    inside = Store(work / "made").build(StageKey("step", 1, {}), lambda _: {"step": step})
    (work / "checkpoints").mkdir(exist_ok=True)
    inside.path.rename(work / "checkpoints" / f"step-{step:06d}")
    return work


def test_garbage_is_what_kept_reports_do_not_need(store: Store) -> None:
    old = chain(store, 1)
    a_second()
    new = chain(store, 2)
    study = build(store, "study", {})
    leftover = store.root / "pool" / "123.partial-9"
    leftover.mkdir()
    gone = going(look(store))
    assert old.path in gone
    assert leftover in gone
    assert study.path not in gone  # belongs to no report, and took long to measure
    assert len(gone) == 4  # old report, old score, old pool, the leftover; the shared data set stays
    freed = remove(store, look(store))
    assert freed > 0
    assert [path for path in gone if path.exists()] == []
    assert all(one.manifest for one in ancestors(store, new))
    assert look(store) == []


def test_nothing_is_garbage_before_the_first_report(store: Store) -> None:
    build(store, "dataset", {})
    assert look(store) == []


def test_a_running_build_loses_neither_its_folders_nor_what_it_reads(store: Store) -> None:
    pool = build(store, "pool", {"seed": 7})
    chain(store, 1)
    with running_build(store, pool) as (pid, fingerprint):
        found = look(store, unfinished=True)
        mine = [one for one in found if one.fingerprint == fingerprint]
        assert [one.path.name.partition(".")[2] for one in mine] == [f"partial-{pid}", "work"]
        assert {one.reason for one in mine} == {f"in use by process {pid}"}
        assert going(found) == set()
        # even a survey from before the build took its lock destroys nothing
        stale = [Found(one.path, True, "stale", one.bytes) for one in mine]
        assert remove(store, [*stale, Found(pool.path, True, "stale", 1)]) == 0
        assert all(one.path.is_dir() for one in mine)
        assert pool.path.is_dir()
    found = {one.path.name.partition(".")[2]: one for one in look(store) if one.fingerprint == fingerprint}
    assert found[f"partial-{pid}"].goes
    assert not found["work"].goes
    assert pool.path in going(look(store))


def test_the_newest_model_of_every_label_stays_with_what_it_was_made_from(store: Store) -> None:
    pools = {name: build(store, "pool", {"of": name}) for name in ("old", "new", "other")}
    old = build(store, "embedder", {"n": 1}, pools["old"], label="demo")
    a_second()
    new = build(store, "embedder", {"n": 2}, pools["new"], label="demo")
    other = build(store, "reranker", {"n": 1}, pools["other"], label="laptop")
    chain(store, 1)
    assert going(look(store)) == {old.path, pools["old"].path}
    assert {new.path, other.path, pools["new"].path, pools["other"].path}.isdisjoint(going(look(store)))


def test_a_model_that_scores_or_accepted_scores_refer_to_stays(store: Store) -> None:
    models = [build(store, "embedder", {"n": n}, label="demo") for n in range(2)]
    evaluation = {"inputs": {"model": models[0].reference}}
    build(store, "accepted-scores", {"evaluations": {"cwe": evaluation}}, label="demo")
    data = build(store, "task-data", {})
    inputs = {"task-data": data.reference, "model": models[1].reference}
    store.build(StageKey("score", 1, {}, inputs), lambda _: {})
    a_second()
    build(store, "embedder", {"n": 9}, label="demo")
    chain(store, 1)
    assert going(look(store)) == set()


def test_a_score_on_an_own_card_stays_and_holds_no_old_model_back(store: Store) -> None:
    model = build(store, "embedder", {"n": 1}, label="demo")
    inputs = {"dataset": build(store, "dataset", {"n": 1}).reference, "model": model.reference}
    score = store.build(StageKey("score", 1, {}, inputs), lambda _: {})
    a_second()
    build(store, "embedder", {"n": 2}, label="demo")
    chain(store, 1)
    gone = going(look(store))
    assert model.path in gone
    assert score.path not in gone


def test_accepted_scores_that_were_replaced_hold_nothing_back(store: Store) -> None:
    model = build(store, "embedder", {"n": 1}, label="demo")
    evaluation = build(store, "evaluation", {"n": 1}, model)
    first = build(store, "accepted-scores", {"evaluations": {}}, evaluation, label="demo")
    a_second()
    key = StageKey("accepted-scores", 1, {"evaluations": {}}, {"reference": first.reference}, "demo")
    store.build(key, lambda _: {})
    build(store, "embedder", {"n": 2}, label="demo")
    chain(store, 1)
    assert going(look(store)) == {model.path, evaluation.path, first.path}


def test_young_artefacts_stay_because_a_run_may_be_between_two_stages(store: Store) -> None:
    chain(store, 1)
    young = build(store, "pool", {"seed": 9})
    [one] = survey(store, keep_reports=1)
    assert (one.path, one.goes) == (young.path, False)
    assert "new" in one.reason


def test_checkpoints_of_a_killed_training_stay_unless_asked_for(store: Store) -> None:
    key = StageKey("embedder", 1, {"seed": 3})
    work = checkpoint(store, key, 25)
    checkpoint(store, key, 50)
    [one] = look(store)
    assert (one.path, one.goes) == (work, False)
    assert one.reason == "checkpoints of an unfinished training, resumes at step 50"
    runner, where = CliRunner(), ["--store", str(store.root)]
    assert "resumes at step 50" in runner.invoke(app, ["gc", "--yes", *where]).output
    assert work.is_dir()
    said = runner.invoke(app, ["gc", "--unfinished", *where]).output
    assert work.is_dir()
    assert "1 folders" in said
    runner.invoke(app, ["gc", "--unfinished", "--yes", *where])
    assert not work.exists()


def test_the_work_folder_of_a_published_artefact_is_rubbish(store: Store) -> None:
    artefact = build(store, "embedder", {})
    work = artefact.path.with_name(f"{artefact.fingerprint}.work")
    work.mkdir()
    assert going(look(store)) == {work}


def test_gc_says_what_goes_and_why_before_it_deletes(store: Store) -> None:
    chain(store, 1)
    a_second()
    chain(store, 2)
    damaged = store.root / "pool" / "123.damaged-9"
    damaged.mkdir()
    (damaged / "x").write_bytes(b"x" * 2000)
    argv = ["gc", "--keep", "1", "--min-age", "0", "--store", str(store.root)]
    said = CliRunner().invoke(app, argv).output
    assert damaged.is_dir()
    assert "nothing that is kept needs it: 3 folders" in said
    assert "damaged, and moved aside when it was rebuilt: 1 folders, 2.0 kB" in said
    assert "4 folders, 2.0 kB would go; delete them with --yes" in said
    done = CliRunner().invoke(app, [*argv, "--yes"]).output
    assert done.index("damaged, and moved aside") < done.index("freed 2.0 kB")
    assert not damaged.exists()
