"""Who is told of a training's steps: TensorBoard files, extras that are not there, trackers that fail."""

from __future__ import annotations

import logging
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from icl_embed.errors import ConfigError
from icl_embed.train.trackers import FOLDER, Watched, open_trackers
from tests.training_jobs import make_job, run_job, write_rows


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard would draw: figure -> step -> value; purged steps are gone."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("events.*"), key=lambda one: one.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            if event.HasField("session_log"):
                for steps in found.values():
                    for step in [one for one in steps if one >= event.step]:
                        del steps[step]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_a_training_writes_every_step_for_tensorboard(tiny_model: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, tiny_model, write_rows(tmp_path / "train.parquet"))
    lines, _ = run_job(job, tmp_path)
    drawn = scalars(job.work_dir / FOLDER)
    assert drawn["train/loss"] == pytest.approx({line["step"]: line["loss"] for line in lines})
    assert {"train/learning_rate", "train/grad_norm", "train/tokens_per_second"} <= set(drawn)


def test_what_an_interrupted_run_wrote_beyond_its_checkpoint_is_taken_back(tmp_path: Path) -> None:
    first = open_trackers(["tensorboard"], tmp_path, "f", {}, 0)
    for step in range(1, 8):
        first.step({"step": step, "loss": float(step)})
    first.end(is_complete=False)
    again = open_trackers(["tensorboard"], tmp_path, "f", {}, 4)
    for step in range(5, 9):
        again.step({"step": step, "loss": 10.0 * step})
    again.end(is_complete=True)
    expected = {step: float(step) for step in range(1, 5)} | {step: 10.0 * step for step in range(5, 9)}
    assert scalars(tmp_path / FOLDER)["train/loss"] == expected


def test_an_extra_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        open_trackers(["wandb"], tmp_path, "f", {}, 0)


def test_a_tracker_that_cannot_start_says_so_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with pytest.raises(ConfigError, match=r"wandb, which does not start: no route"):
        open_trackers(["wandb"], tmp_path, "f", {}, 0)


def test_a_tracker_that_fails_is_dropped_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    told: list[object] = []

    class Failing:
        def step(self, number, figures):
            raise TimeoutError("gone")

        def end(self, *, is_complete):
            told.append("never")

    class Working:
        def step(self, number, figures):
            told.append((number, figures))

        def end(self, *, is_complete):
            told.append(is_complete)

    watched = Watched([Failing(), Working()])
    with caplog.at_level(logging.WARNING):
        watched.step({"step": 1, "loss": 2.0, "note": "not a figure"})
        watched.step({"step": 2, "loss": 1.0})
        watched.end(is_complete=True)
    assert told == [(1, {"loss": 2.0}), (2, {"loss": 1.0}), True]
    assert caplog.text.count("Failing is told no more: gone") == 1
