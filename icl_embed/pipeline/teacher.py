"""The stage that scores the training pairs with a teacher."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl_embed.config import TeacherConfig
from icl_embed.errors import ConfigError
from icl_embed.pipeline.run import Run
from icl_embed.pipeline.training import OnLine
from icl_embed.store import StageKey

logger = logging.getLogger(__name__)


def build_teacher_scores(run: Run, key: StageKey, out_dir: Path, on_line: OnLine | None) -> Mapping[str, Any]:
    """Score every training pair; a killed run goes on in its work folder."""
    from icl_embed.rerank.teachers import load_teacher
    from icl_embed.teacher.scoring import Teacher, score_training_pairs

    settings = key.settings["teacher"]
    # the key knows the folder by its content; where it lies is this machine's business
    config = TeacherConfig(**{**settings, "folder": run.config.teacher.folder})
    folder, identity = _model_of(run, key, config)
    score = load_teacher(config, folder, max_tokens=key.settings["max_tokens"], dtype=key.settings["dtype"])
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
