"""The checkpoints of a training: the best is chosen on dev splits, then scored on the test splits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_embed.errors import ConfigError
from icl_embed.pipeline.run import Run
from icl_embed.pipeline.stages.embedder import checkpoint_key
from icl_embed.pipeline.stages.score import TRAINED, ScoredModel, card_scores
from icl_embed.store import Artefact, StageKey

CHOICE_NAME = "choice.json"
TABLE_NAME = "checkpoints.md"


@dataclass(frozen=True)
class Checkpoint:
    """The model after a step; the last one is the embedder itself."""

    step: int
    key: StageKey

    @property
    def name(self) -> str:
        """As tables call it."""
        return f"step {self.step}"


def checkpoints_of(run: Run) -> list[Checkpoint]:
    """Every checkpoint that a run's training keeps, and the published one.

    Where dev scores decide, training may have ended early, and epochs are counted by it; the trained embedder
    must then exist.

    Raises
        ConfigError: training keeps none but the last.
        StoreError: the embedder does not exist, and its config does not say which steps there are.
    """
    from icl_embed.train.embedder.snapshots import snapshot_steps

    train = run.config.train
    last = published = train.optimizer.steps
    if train.snapshot_every and (train.dev.changes_result or train.optimizer.epochs):
        counts = run.artefact(run.keys.embedder).manifest.counts
        last, published = counts["steps"], counts.get("published_step", counts["steps"])
    steps = snapshot_steps(train, train.optimizer.steps or last)
    if not steps:
        raise ConfigError(
            "there is nothing to choose from: training keeps the last step alone; "
            f"set train.snapshot_every, e.g. to {max(1, last // 4)}"
        )
    earlier = [step for step in steps if step < last and step != published]
    return [
        *(Checkpoint(step, checkpoint_key(run, step)) for step in earlier),
        Checkpoint(published, run.keys.embedder),
    ]


def dev_scores(run: Run, checkpoint: Checkpoint) -> list[StageKey]:
    """Scores on the dev split of every training set that has one; the data sets must exist.

    Raises
        ConfigError: no data set has a dev split.
    """
    names = [name for name in run.config.data.train if _dev_rows(run, name)]
    if not names:
        raise ConfigError("no training set has a dev split; give a card dev rows under [splits]")
    return [key for name in names for key in _scores(run, checkpoint, name, "dev")]


def test_scores(run: Run, checkpoint: Checkpoint) -> list[StageKey]:
    """Scores on the test split of every evaluated data set."""
    return [key for name in run.config.data.evaluate for key in _scores(run, checkpoint, name, "test")]


def _scores(run: Run, checkpoint: Checkpoint, dataset: str, split: str) -> list[StageKey]:
    keys, model = run.keys, ScoredModel(checkpoint.name, checkpoint.key.reference)
    if checkpoint.key == keys.embedder:
        model = ScoredModel(TRAINED, checkpoint.key.reference)  # named as in every other flow
    return card_scores(run.config, dataset, keys.datasets[dataset], keys.pool, model, split)


def _dev_rows(run: Run, dataset: str) -> int:
    counts = run.artefact(run.keys.datasets[dataset]).manifest.counts
    return int(counts["rows"].get("dev", 0))


def choose_checkpoint(run: Run) -> tuple[Checkpoint, Artefact]:
    """The checkpoint that is best on the dev splits, all of whose dev scores must exist."""
    checkpoints = checkpoints_of(run)
    keys = {checkpoint.step: dev_scores(run, checkpoint) for checkpoint in checkpoints}
    inputs = {f"step {step}: {key.label}": key.reference for step, mine in keys.items() for key in mine}
    key = StageKey("checkpoint-choice", 1, {}, inputs, run.config.preset)
    artefact = run.store.build(key, lambda out_dir: _choose(run, keys, out_dir))
    best = json.loads((artefact.path / CHOICE_NAME).read_bytes())["step"]
    return next(one for one in checkpoints if one.step == best), artefact


def _choose(run: Run, keys: Mapping[int, list[StageKey]], out_dir: Path) -> Mapping[str, Any]:
    from icl_embed.evaluation.measurement import Bootstrap
    from icl_embed.report.variants import choice_table, choose_best

    config = run.config
    folders = {step: [run.artefact(key).path for key in mine] for step, mine in keys.items()}
    how = Bootstrap(config.evaluate.bootstrap_resamples, config.evaluate.confidence, config.seed)
    choice = choose_best(folders, how)
    (out_dir / TABLE_NAME).write_text(choice_table(choice), encoding="utf-8")
    (out_dir / CHOICE_NAME).write_text(json.dumps({"step": choice.best}), encoding="utf-8")
    return {"checkpoints": len(keys), "best": choice.best}
