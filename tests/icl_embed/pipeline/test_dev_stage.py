"""The stage ``embedder`` with measurements on the way, and going on from an earlier one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from icl_embed.errors import TrainingError
from icl_embed.pipeline.build import build
from icl_embed.pipeline.checkpoints import checkpoints_of
from icl_embed.pipeline.run import Run, open_run
from icl_embed.report.facts import read_training
from icl_embed.store import Artefact
from icl_embed.train.metrics import METRICS_NAME, dev_lines, read_metrics
from tests.tiny_project import build_project

DEV = ("train.dev.every=2", "train.dev.shots=2", "train.launch.processes=1", "data.evaluate=['tiny-facts']")


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_project(tmp_path_factory.mktemp("project"))


def trained(preset: Path, overrides: Sequence[str]) -> tuple[Run, Artefact]:
    """The embedder and all that it needs."""
    run = open_run(str(preset), overrides)
    keys = run.keys
    for key in (keys.base_model, *keys.datasets.values(), keys.pool, keys.negatives):
        build(run, key)
    return run, build(run, keys.embedder)


def test_the_dev_splits_of_the_trained_sets_are_measured_and_the_manifest_says_what_is_published(
    preset: Path,
) -> None:
    run, artefact = trained(preset, [*DEV, "train.dev.keep=best", "train.snapshot_every=1"])
    lines = dev_lines(read_metrics(artefact.path / METRICS_NAME))
    assert [line["step"] for line in lines] == [2, 4]
    assert {name.partition("/")[2] for name in lines[0] if "/" in name} == {"tiny-facts", "tiny-topics"}
    best = max(lines, key=lambda line: line["dev_few_shot"])
    counts = artefact.manifest.counts
    assert (counts["published_step"], counts["stopped_early"]) == (best["step"], False)
    assert counts["dev_few_shot"] == pytest.approx(best["dev_few_shot"], abs=1e-4)
    assert counts["steps"] == 4
    assert not (artefact.path / "best").exists()
    checkpoints = checkpoints_of(run)  # the published weights are no checkpoint beside themselves
    assert [one.step for one in checkpoints] == [*({1, 2, 3} - {best["step"]}), best["step"]]
    assert checkpoints[-1].key == run.keys.embedder
    training = read_training(artefact.path)
    assert training is not None and len(training.dev_few) == 2


def test_more_shots_than_dev_rows_are_refused_by_the_name_of_the_set(preset: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"tiny-facts has \d+ dev rows, fewer than the 80 .* train.dev.shots"
    ):
        trained(preset, [*DEV, "train.dev.shots=80", "train.dev.patience=1"])


@pytest.mark.slow
def test_an_embedder_goes_on_from_another_of_the_same_base_which_the_key_knows_by_its_content(
    preset: Path, tmp_path: Path
) -> None:
    first_run, first = trained(preset, DEV)
    moved = shutil.copytree(first.path, tmp_path / "moved")
    again = f"train.start_from={moved}"
    run, second = trained(preset, [*DEV, again])
    assert run.keys.embedder != first_run.keys.embedder
    assert run.keys.embedder == open_run(str(preset), [*DEV, f"train.start_from={first.path}"]).keys.embedder
    losses = [read_metrics(one.path / METRICS_NAME)[0]["loss"] for one in (first, second)]
    assert losses[0] != losses[1]
    made = json.loads((moved / "manifest.json").read_text())
    made["key"]["inputs"]["base-model"] = "base-model/of-another"
    (moved / "manifest.json").write_text(json.dumps(made))
    with pytest.raises(
        TrainingError, match=r"was trained on base-model/of-another, this run's base model is"
    ):
        trained(preset, [*DEV, again, "seed=5"])


def test_the_checkpoints_of_a_training_in_epochs_are_those_that_it_counted(preset: Path) -> None:
    in_epochs = ["train.optimizer.steps=0", "train.optimizer.epochs=0.5", "train.snapshot_every=1", DEV[2]]
    run, artefact = trained(preset, in_epochs)
    steps = artefact.manifest.counts["steps"]
    assert steps > 1
    assert [one.step for one in checkpoints_of(run)] == list(range(1, steps + 1))
