"""The variants bench: which jobs there are, what stops them, which way its differences point."""

import json
import time

from icl_embed.evaluation.measurement import Measurement
from tests.bench.learn import jobs_of, results_of, run_jobs
from tests.bench.learn_table import FEW, ZERO, Cell, difference

TOLD = {
    "common": ["x=1"],
    "choosing": ["a"],
    "reporting": ["b"],
    "reported": ["none"],
    "variants": {"examples": [], "none": ["train.examples.mode=none"]},
}


def test_what_is_cut_off_leaves_whole_rounds():
    jobs = jobs_of(TOLD, ["y=2"], {"examples": 3, "none": 2})
    assert [job.name for job in jobs] == ["examples.0", "none.0", "examples.1", "none.1", "examples.2"]
    assert jobs[3].overrides == (
        "x=1", 'evaluate.tasks=["a", "b"]', "y=2", "train.examples.mode=none", "train.seed=1"
    )  # fmt: skip
    assert jobs[2].overrides[1] == 'evaluate.tasks=["a"]'
    assert [job.own_sets for job in jobs[2:4]] == [False, True]


def test_a_job_that_fails_leaves_its_reason_and_nothing_runs_on_after_the_time(tmp_path):
    jobs = jobs_of(TOLD, ["no.such_setting=1"], {"examples": 1, "none": 1})
    started = time.monotonic()
    run_jobs(jobs, "demo", tmp_path, parallel=1, seconds=0.5)
    assert time.monotonic() - started < 30
    assert not results_of(tmp_path)
    assert not (tmp_path / "none.0.asked.json").exists()  # the first was still starting
    run_jobs(jobs[:1], "demo", tmp_path, parallel=1, seconds=120)
    assert "no such setting" in (tmp_path / "examples.0.log").read_text()
    assert json.loads((tmp_path / "examples.0.asked.json").read_text())["preset"] == "demo"


def test_a_run_that_goes_on_reads_its_jobs_alone(tmp_path):
    for name in ("examples.0.json", "examples.0.asked.json", "learn.json"):
        (tmp_path / name).write_text(json.dumps({"is": name}))
    assert results_of(tmp_path) == {"examples.0": {"is": "examples.0.json"}}


def table_of(**scores):
    """Measurements of ten items, by ``variant_seed_setting``."""
    names = [str(item) for item in range(10)]
    found = {}
    for name, values in scores.items():
        variant, seed, setting = name.split("_")
        for task, value in zip(("a", "b"), values, strict=True):
            cell = Cell(variant, int(seed), task, {"zero": ZERO, "few": FEW}[setting])
            found[cell] = Measurement(task, "mean", tuple(names), (value,) * 10)
    return found


def test_a_difference_is_of_the_seeds_and_tasks_that_both_have():
    table = table_of(
        examples_0_zero=(0.5, 0.1), examples_0_few=(0.6, 0.1), examples_1_few=(0.9, 0.9), none_1_zero=(0.4, 0.4)
    )  # fmt: skip
    own = difference(table, ("examples", FEW), ("examples", ZERO), ["a", "b"])
    assert own is not None
    assert (own["tasks"], own["by_seed_over_items"]) == (2, ["+5.0 (+5.0 to +5.0)"])
    control = difference(table, ("examples", FEW), ("none", ZERO), ["a", "b"])
    assert control is not None
    assert control["over_items_and_seeds"] == "+50.0 (+50.0 to +50.0)"
    assert difference(table, ("none", FEW), ("none", ZERO), ["a", "b"]) is None
