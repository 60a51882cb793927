"""Where the figures of a training go besides its own log: TensorBoard files, MLflow, Weights & Biases.

A tracker is told every step and how it ended, and nothing more. It watches: one that fails is dropped with a
warning, and the training goes on.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from icl_embed.config import TrackerName
from icl_embed.errors import ConfigError

logger = logging.getLogger(__name__)

FOLDER = "tensorboard"
PACKAGES: Mapping[TrackerName, str] = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}


class Tracker(Protocol):
    """Somebody who watches a training."""

    def step(self, number: int, figures: Mapping[str, float]) -> None:
        """What a step did."""

    def end(self, *, is_complete: bool) -> None:
        """The last step is done, or the training was stopped and may go on later."""


class TensorBoard:
    """Event files in a folder; ``tensorboard --logdir`` reads them."""

    def __init__(self, folder: Path, first: int) -> None:
        """Open the files.

        Parameters
            first: steps that are done; what an interrupted run wrote of later ones is taken back.
        """
        library = _library("tensorboard")
        self._writer = library.SummaryWriter(
            str(folder),
            purge_step=first + 1 if first else None,
            filename_suffix=f".after-{first}",  # names hold seconds: two runs in one keep theirs
        )

    def step(self, number: int, figures: Mapping[str, float]) -> None:
        """One point per figure."""
        for name, value in figures.items():
            self._writer.add_scalar(f"train/{name}", value, number)

    def end(self, *, is_complete: bool) -> None:
        """Write what is buffered."""
        self._writer.close()


class MlFlow:
    """A run of MLflow, where ``MLFLOW_TRACKING_URI`` says; a resumed training goes on in its own."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self._library = _library("mlflow")
        known = self._library.search_runs(
            filter_string=f"tags.training = '{name}'", output_format="list", max_results=1
        )
        self._library.start_run(run_id=known[0].info.run_id if known else None, run_name=name)
        self._library.set_tag("training", name)
        if not known:
            self._library.log_params(dict(settings))

    def step(self, number: int, figures: Mapping[str, float]) -> None:
        """All figures at once."""
        self._library.log_metrics(dict(figures), step=number)

    def end(self, *, is_complete: bool) -> None:
        """Finished, or killed."""
        self._library.end_run("FINISHED" if is_complete else "KILLED")


class WeightsAndBiases:
    """A run of Weights & Biases, known by the training's fingerprint."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        library = _library("wandb")
        self._run = library.init(
            project="icl-embed", id=name, name=name, dir=str(folder), resume="allow", config=dict(settings)
        )

    def step(self, number: int, figures: Mapping[str, float]) -> None:
        """All figures at once."""
        self._run.log(dict(figures), step=number)

    def end(self, *, is_complete: bool) -> None:
        """Finished, or failed."""
        self._run.finish(exit_code=0 if is_complete else 1)


class Watched:
    """All trackers of a training as one that never fails."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)

    def step(self, line: Mapping[str, Any]) -> None:
        """Tell all of a line of the log."""
        figures = {name: float(value) for name, value in line.items() if isinstance(value, int | float)}
        number = int(figures.pop("step"))
        self._tell(lambda tracker: tracker.step(number, figures))

    def end(self, *, is_complete: bool) -> None:
        """Tell all that it is over."""
        self._tell(lambda tracker: tracker.end(is_complete=is_complete))

    def _tell(self, say: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                say(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                logger.warning("warning: %s is told no more: %s", type(tracker).__name__, error)


def open_trackers(
    names: Sequence[TrackerName], work_dir: Path, fingerprint: str, settings: Mapping[str, Any], first: int
) -> Watched:
    """The trackers that a config names.

    Parameters
        first: steps that are done.

    Raises
        ConfigError: the package of one is not installed, or it refuses to start.
    """
    make: Mapping[TrackerName, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoard(work_dir / FOLDER, first),
        "mlflow": lambda: MlFlow(fingerprint, settings),
        "wandb": lambda: WeightsAndBiases(fingerprint, work_dir, settings),
    }
    found = []
    for name in names:
        try:
            found.append(make[name]())
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"launch.trackers names {name}, which does not start: {error}; see that it can be reached, "
                "or leave it out"
            ) from error
    return Watched(found)


def _library(name: TrackerName) -> ModuleType:
    try:
        return importlib.import_module(PACKAGES[name])
    except ImportError as error:
        raise ConfigError(
            f"launch.trackers names {name}, and its package is not installed; pip install {PACKAGES[name]}"
        ) from error
