"""A training job as a file: what the launcher writes and every rank reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from icl_embed.config import Kind, Section, TeacherConfig, TrainConfig
from icl_embed.errors import TrainingError
from icl_embed.model.settings import EmbedderSettings
from icl_embed.store.files import write_atomically


class Job(Section):
    """What every training job needs; ``teacher_dir`` is a table of teacher scores of the rows, if any."""

    fingerprint: str
    seed: int
    model_dir: Path
    rows_path: Path
    work_dir: Path
    out_dir: Path
    teacher_dir: Path | None = None
    dtype: str = "auto"

    @property
    def told(self) -> dict[str, Any]:
        """The settings that a tracker shows, one level deep: ``train.optimizer`` is one of them."""
        parts = self.model_dump(mode="json", include={"train", "rerank", "seed", "dtype"})
        flat = {name: value for name, value in parts.items() if not isinstance(value, dict)}
        for section, values in parts.items():
            if isinstance(values, dict):
                flat |= {f"{section}.{name}": str(value) for name, value in values.items()}
        return flat


class DevSource(Section):
    """A data set whose dev split may be measured: what its card says, and its artefact's folder."""

    name: str
    kind: Kind
    instruction: str
    folder: Path


class EmbedderJob(Job):
    """Train an embedder.

    Attributes
        teacher_model: another embedder to learn from, if any.
        dev_sources: the data sets that are trained on, where training measures on the way.
    """

    train: TrainConfig
    settings: EmbedderSettings
    teacher_model: Path | None = None
    teacher: TeacherConfig = TeacherConfig()
    dev_sources: tuple[DevSource, ...] = ()

    def counted(self, steps: int) -> EmbedderJob:
        """This job now that its rows are known, and with them the steps that ``optimizer.epochs`` are."""
        train = self.train.model_copy(update={"optimizer": self.train.optimizer.counted(steps)})
        return self.model_copy(update={"train": train})


JobType = TypeVar("JobType", bound=Job)


def write_job(job: Job, path: Path) -> Path:
    """Write a job file and return its path."""
    write_atomically(path, job.model_dump_json(indent=1).encode())
    return path


def read_job(path: Path, kind: type[JobType]) -> JobType:
    """Read a job file.

    Raises
        TrainingError: unreadable or not a job of this kind.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise TrainingError(f"cannot read the job {path}: {error}") from error
