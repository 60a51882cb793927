"""The best of a training's checkpoints is chosen on dev splits and scored on the test splits."""

from __future__ import annotations

import json
from pathlib import Path

from tests.flows.running import run_flow


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
    scored = [json.loads(path.read_bytes()) for path in (store_copy / "evaluation").glob("*/manifest.json")]
    splits = {(one["label"], one["key"]["settings"]["split"]) for one in scored}
    assert {(f"step {step} on tiny-facts dev", "dev") for step in (2, 4, 5)} <= splits
    on_test = {label for label, split in splits if split == "test" and label.startswith("step ")}
    assert on_test == {f"step {best} on {name}" for name in ("tiny-notes", "tiny-topics", "tiny-pairs")}
