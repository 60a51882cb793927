"""Stage ``teacher-scores``: what a teacher thinks of the training pairs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import RunConfig, TeacherConfig
from icl_embed.errors import ConfigError
from icl_embed.model.dtype import name_dtype
from icl_embed.pipeline.stages.reranker import reranker_key
from icl_embed.pipeline.stages.training_jobs import OnLine
from icl_embed.store import StageKey

if TYPE_CHECKING:
    from icl_embed.pipeline.run import Run


logger = logging.getLogger(__name__)

STAGE, VERSION = "teacher-scores", 1


def teacher_keys(
    config: RunConfig, base: StageKey, negatives: StageKey
) -> tuple[StageKey | None, StageKey | None]:
    """The run's own reranker where that is the teacher, and the scores of the training pairs, if any.

    A folder is known by what it holds, not by its path.

    Raises
        ConfigError: the folder does not exist.
    """
    if config.teacher.source in ("none", "embedder"):  # whose vectors are made when they are needed
        return None, None
    own = reranker_key(config, base, negatives) if config.teacher.source == "own" else None
    folder, inputs = config.teacher.folder, {"negatives": negatives.reference}
    if own is not None:
        inputs["reranker"] = own.reference
    settings = {
        "teacher": config.teacher.model_dump(
            mode="json", exclude={"folder", "reranker", "embedder", "temperature"}
        ),
        "model": content_of(folder) if folder is not None else "",
        "max_tokens": config.rerank.max_tokens,
        "dtype": name_dtype(config.model.dtype),
    }
    return own, StageKey(STAGE, VERSION, settings, inputs, config.preset)


def content_of(folder: Path) -> str:
    """A hash of a teacher's folder; raises ConfigError if it does not exist."""
    from icl_embed.model.fingerprints import folder_fingerprint

    if not folder.is_dir():
        raise ConfigError(
            f"teacher.folder is {folder}, which does not exist; name the teacher's model folder"
        )
    return folder_fingerprint(folder)


def build_teacher_scores(run: Run, key: StageKey, out_dir: Path, on_line: OnLine | None) -> Mapping[str, Any]:
    """Score every training pair; a killed run goes on in its work folder."""
    from icl_embed.rerank.teachers import open_teacher
    from icl_embed.teacher.scoring import Teacher, score_training_pairs

    settings = key.settings["teacher"]
    # the key knows the folder by its content; where it lies is this machine's business
    config = TeacherConfig(**{**settings, "folder": run.config.teacher.folder})
    folder, identity = _model_of(run, key, config)
    score = open_teacher(
        config,
        folder,
        run.config.engine,
        max_tokens=key.settings["max_tokens"],
        dtype=key.settings["dtype"],
    )
    return score_training_pairs(
        run.input(key, "negatives").path / "train.parquet",
        out_dir,
        run.store.work_dir(key),
        Teacher(f"{config.source}:{identity}", score),
        kinds=config.kinds,
        shard_pairs=config.shard_pairs,
        on_line=on_line or logger.info,
    )


def _model_of(run: Run, key: StageKey, config: TeacherConfig) -> tuple[Path, str]:
    """The teacher's folder, and what tells its weights from any others."""
    if "reranker" in key.inputs:
        artefact = run.input(key, "reranker")
        return artefact.path, artefact.fingerprint
    if config.folder is None:
        raise ConfigError("teacher.folder is not set; name the teacher's model folder")
    return config.folder, str(key.settings["model"])
