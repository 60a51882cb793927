"""The best of a training's checkpoints is chosen on dev splits and scored on the test splits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.flows.running import run_flow


@pytest.mark.slow
def test_every_checkpoint_is_scored_on_dev_and_the_best_on_test(project: Path, store_copy: Path) -> None:
    # data and base model are the finished run's
    settings = [f"paths.store={store_copy}", "train.snapshot_every=2", "train.optimizer.steps=5"]
    process = run_flow("evaluate-checkpoint", project, *settings)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    [choice] = (store_copy / "checkpoint-choice").glob("*/choice.json")
    best = json.loads(choice.read_bytes())["step"]
    table = (choice.parent / "checkpoints.md").read_text()
    assert [line.split(" | ")[0] for line in table.splitlines()[2:5]] == ["| 2", "| 4", "| 5"]
    assert f"tep {best}" in table
    scored = [json.loads(path.read_bytes()) for path in (store_copy / "score").glob("*/manifest.json")]
    splits = {(one["label"], one["key"]["settings"]["split"]) for one in scored}
    models = ("step 2", "step 4", "trained")  # the last step is the embedder itself
    assert {(f"{model} on data/tiny-facts dev, zero-shot", "dev") for model in models} <= splits
    model = "trained" if best == 5 else f"step {best}"
    on_test = {label for label, split in splits if split == "test" and label.endswith(", zero-shot")}
    expected = {f"{model} on data/{name}, zero-shot" for name in ("tiny-notes", "tiny-topics", "tiny-pairs")}
    assert expected <= on_test
    assert {label for label in on_test if label.startswith("step ")} <= expected
