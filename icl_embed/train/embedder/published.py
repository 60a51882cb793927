"""Which weights a training published: a file beside them, where that is not simply the last step's."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from icl_embed.config import TrainConfig
from icl_embed.errors import TrainingError
from icl_embed.store.files import write_atomically
from icl_embed.train.dev_watch import DevHistory

PUBLISHED_NAME = "published.json"


@dataclass(frozen=True)
class Published:
    """What a listing shows of the weights of a model.

    Attributes
        published_step: the step that they are of.
        stopped_early: training ended before its last step, because nothing got better.
        dev_zero_shot, dev_few_shot: the averages on the dev splits; None where nothing was measured then.
    """

    published_step: int
    stopped_early: bool
    dev_zero_shot: float | None = None
    dev_few_shot: float | None = None

    @classmethod
    def of(cls, train: TrainConfig, steps_done: int, history: DevHistory) -> Published:
        """What follows from the measurements of a training that is done."""
        best = history.best if train.dev.keep == "best" else None
        step = best.step if best else steps_done
        score = next((one for one in history.scores if one.step == step), None)
        return cls(
            step,
            steps_done < train.optimizer.steps,
            score and round(score.zero_shot, 4),
            score and round(score.few_shot, 4),
        )


def write_published(told: Published, out_dir: Path) -> None:
    """Write it beside the weights."""
    write_atomically(out_dir / PUBLISHED_NAME, json.dumps(asdict(told), indent=1).encode())


def read_published(folder: Path) -> dict[str, Any]:
    """What was written, as counts of a manifest; nothing where training had no choice but the last step.

    Raises
        TrainingError: it is damaged.
    """
    path = folder / PUBLISHED_NAME
    if not path.exists():
        return {}
    try:
        return {name: value for name, value in json.loads(path.read_bytes()).items() if value is not None}
    except (OSError, ValueError, AttributeError) as error:
        raise TrainingError(f"{path} is damaged: {error}; train again") from error
