"""Whole training jobs that measure on dev splits: the curve stays, the choice is kept, also through a kill."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from icl_embed.errors import TrainingError
from icl_embed.launch.launcher import WorkerLostError, launch
from icl_embed.store.files import sha256_of
from icl_embed.train.embedder.published import read_published
from icl_embed.train.embedder.snapshots import build_checkpoint, snapshot_folder
from icl_embed.train.job import EmbedderJob, write_job
from icl_embed.train.metrics import METRICS_NAME, dev_lines, read_metrics, step_lines
from tests.training_jobs import make_job, run_job, write_dev, write_rows

DEV = {"every": 2, "shots": 2, "queries": 8}
DROPOUT = {"lora": {"dropout": 0.2}}  # the first to notice random numbers that someone else has used
STEPS = {"steps": 8, "save_every": 3, "warmup_steps": 1, "schedule": "constant", "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "train.parquet")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return write_dev(tmp_path_factory.mktemp("dev"))


@pytest.fixture(scope="module")
def measured(tiny_model: Path, rows: Path, sources: list[Any], tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("measured")
    job = make_job(folder, tiny_model, rows, dev_sources=sources, dev=DEV, **DROPOUT)
    lines, printed = run_job(job, folder)
    return job, lines, printed


def test_measuring_changes_no_step_and_no_weight(
    measured, tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    job, lines, printed = measured
    plain = make_job(tmp_path, tiny_model, rows, **DROPOUT)
    expected, _ = run_job(plain, tmp_path)
    assert [(one["loss"], one["grad_norm"]) for one in step_lines(lines)] == [
        (one["loss"], one["grad_norm"]) for one in expected
    ]
    name = "model.safetensors"
    assert sha256_of(job.out_dir / name) == sha256_of(plain.out_dir / name)
    assert [one["step"] for one in dev_lines(lines)] == [2, 4, 6]
    assert all(0 < one["dev_few_shot/colours"] <= 1 for one in dev_lines(lines))
    assert sum(line.startswith("dev after step") for line in printed) == 3
    assert read_published(plain.out_dir) == {}
    assert read_published(job.out_dir)["published_step"] == 6


@pytest.mark.parametrize("zero_stage", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_two_ranks_share_the_work_and_find_the_same(
    measured, tiny_model: Path, rows: Path, sources: list[Any], tmp_path: Path, zero_stage: int
) -> None:
    alone = make_job(tmp_path / "one", tiny_model, rows, dev_sources=sources, dev=DEV, batch_tokens=300)
    expected, _ = run_job(alone, tmp_path / "one")
    both = make_job(
        tmp_path / "two", tiny_model, rows, processes=2, dev_sources=sources, dev={**DEV, "keep": "best"},
        batch_tokens=300, optimizer={"zero_stage": zero_stage},
    )  # fmt: skip
    found, _ = run_job(both, tmp_path / "two")
    assert [one["loss"] for one in step_lines(found)] == pytest.approx(
        [one["loss"] for one in step_lines(expected)], rel=2e-5
    )
    for one, other in zip(dev_lines(expected), dev_lines(found), strict=True):
        # two passages that are all but alike may change places with the last bit of a sum
        assert one["dev_few_shot"] == pytest.approx(other["dev_few_shot"], abs=0.05)
    best = max(dev_lines(found), key=lambda one: one["dev_few_shot"])["step"]
    assert read_published(both.out_dir)["published_step"] == best


def test_trackers_are_told(measured) -> None:
    job, _, _ = measured
    written = b"".join(path.read_bytes() for path in (job.work_dir / "tensorboard").iterdir())
    assert b"train/dev_few_shot/facts" in written and b"train/dev_zero_shot" in written


def scripted(
    folder: Path, job: EmbedderJob, script: dict[int, float], monkeypatch, on_line=lambda _: None
) -> list[str]:
    monkeypatch.setenv("DEV_SCRIPT", json.dumps(script))
    printed: list[str] = []

    def hear(line: str) -> None:
        printed.append(line)
        on_line(line)

    launch("tests.scripted_dev_training", folder / "job.json", job.work_dir, job.train.launch, hear)
    return printed


def same_as_step(job: EmbedderJob, model: Path, step: int, folder: Path) -> bool:
    """Whether the published weights are those that the training had after a step."""
    build_checkpoint(
        model,
        snapshot_folder(job.out_dir, step),
        folder,
        train=job.train,
        settings=job.settings,
        dtype=job.dtype,
    )
    found, wanted = (load_file(one / "model.safetensors") for one in (job.out_dir, folder))
    return all(torch.equal(weight, found[name]) for name, weight in wanted.items())


@pytest.mark.parametrize("tuning", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_the_best_weights_are_published_and_training_ends_when_patience_does(
    tiny_model: Path, rows: Path, sources: list[Any], tmp_path: Path, monkeypatch, tuning: str
) -> None:
    job = make_job(
        tmp_path, tiny_model, rows, dev_sources=sources, optimizer=STEPS, snapshot_every=1, tuning=tuning,
        dev={**DEV, "keep": "best", "patience": 2}, settings={"template": {"special_tokens": True}},
    )  # fmt: skip
    # the best is better than what follows, the last would be better still but is never seen
    printed = scripted(tmp_path, job, {2: 0.5, 4: 0.4, 6: 0.5, 8: 0.9}, monkeypatch)
    assert "training ends: 2 measurements without a better one" in printed
    assert [one["step"] for one in step_lines(read_metrics(job.work_dir / METRICS_NAME))] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    assert read_published(job.out_dir) == {
        "published_step": 2,
        "stopped_early": True,
        "dev_zero_shot": 0.0,
        "dev_few_shot": 0.5,
    }
    assert same_as_step(job, tiny_model, 2, tmp_path / "two")
    assert not same_as_step(job, tiny_model, 5, tmp_path / "five")
    write_job(job.model_copy(update={"out_dir": tmp_path / "again"}), tmp_path / "job.json")
    again, _ = run_job(job, tmp_path)
    assert len(step_lines(again)) == 6, "a training that ended early goes on when it is run again"


@pytest.mark.slow
def test_a_run_that_is_killed_between_two_measurements_chooses_the_same_step(
    tiny_model: Path, rows: Path, sources: list[Any], tmp_path: Path, monkeypatch
) -> None:
    """Killed after step 5, when step 4 had become the best: the checkpoint is of step 3, when step 2 was."""
    script, dev = {2: 0.3, 4: 0.6, 6: 0.2, 8: 0.1}, {**DEV, "keep": "best", "patience": 2}
    jobs = {
        name: make_job(
            tmp_path / name, tiny_model, rows, dev_sources=sources, optimizer=STEPS, dev=dev, snapshot_every=4
        )
        for name in ("whole", "killed")
    }
    scripted(tmp_path / "whole", jobs["whole"], script, monkeypatch)
    job, pids = jobs["killed"], []

    def kill(line: str) -> None:
        if line.startswith("step 5/"):
            pids.append(int((job.work_dir / "ranks" / "0").read_text().split()[0]))
            os.kill(pids[0], signal.SIGKILL)

    with pytest.raises(WorkerLostError, match="resume"):
        scripted(tmp_path / "killed", job, script, monkeypatch, kill)
    assert pids, "the fault was never injected"
    kept = sorted(path.name for path in (job.work_dir / "best").iterdir())
    assert kept == ["step-000002", "step-000004"], "what a resumed run may have to publish was dropped"
    printed = scripted(tmp_path / "killed", job, script, monkeypatch)
    assert "resumed after step 3 of 8" in printed
    assert read_published(job.out_dir) == read_published(jobs["whole"].out_dir)
    assert read_published(job.out_dir)["published_step"] == 4
    name = "model.safetensors"
    assert sha256_of(job.out_dir / name) == sha256_of(jobs["whole"].out_dir / name)
    found, wanted = (dev_lines(read_metrics(one.work_dir / METRICS_NAME)) for one in (job, jobs["whole"]))
    assert [(one["step"], one["dev_few_shot"]) for one in found] == [
        (one["step"], one["dev_few_shot"]) for one in wanted
    ]


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_measures_when_it_goes_on(
    tiny_model: Path, rows: Path, sources: list[Any], tmp_path: Path, monkeypatch
) -> None:
    """A stop leaves seconds to save in: the measurement that is due is made up for by the next run."""
    job = make_job(tmp_path, tiny_model, rows, dev_sources=sources, optimizer=STEPS, dev=DEV)
    script = {2: 0.3, 4: 0.6, 6: 0.2, 8: 0.1}

    def stop(line: str) -> None:
        if line.startswith("step 4/"):
            os.kill(int((job.work_dir / "ranks" / "0").read_text().split()[0]), signal.SIGTERM)

    with pytest.raises(WorkerLostError, match="run again to go on"):
        scripted(tmp_path, job, script, monkeypatch, stop)
    assert [one["step"] for one in dev_lines(read_metrics(job.work_dir / METRICS_NAME))] == [2]
    printed = scripted(tmp_path, job, script, monkeypatch)
    assert "resumed after step 4 of 8" in printed
    lines = read_metrics(job.work_dir / METRICS_NAME)
    assert [one["step"] for one in dev_lines(lines)] == [2, 4, 6, 8]
    assert [one["step"] for one in step_lines(lines)] == list(range(1, 9))


def test_a_job_without_a_dev_split_says_so_before_it_trains(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"no data set that is trained on has a dev split"):
        run_job(make_job(tmp_path, tiny_model, rows, dev=DEV), tmp_path)
    assert not (tmp_path / "work" / "checkpoints").exists()


def test_best_weights_are_not_kept_of_what_a_snapshot_lacks(
    tiny_model: Path, rows: Path, sources: list[Any], tmp_path: Path
) -> None:
    job = make_job(
        tmp_path, tiny_model, rows, dev_sources=sources, dev={**DEV, "keep": "best"},
        settings={"template": {"demonstrations": True}},
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"does not keep demonstration embeddings; use 'last'"):
        run_job(job, tmp_path)
