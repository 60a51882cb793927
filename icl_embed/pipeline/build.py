"""How each stage is built from its key: the one table that joins the graph to the rooms.

A builder reads its settings from the *key*, not from the config: what is used is exactly what was hashed.
Only what cannot change a result (paths, processes, progress) comes from the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from icl_embed.config import NegativesConfig, PoolConfig
from icl_embed.pipeline.checkpoints import build_checkpoint_model
from icl_embed.pipeline.keys import refuse_changed, refuse_unfit_folder, settings_of
from icl_embed.pipeline.measure import (
    build_report,
    build_reranker_choice,
    build_reranker_evaluation,
)
from icl_embed.pipeline.re_evaluation import ACCEPTED, RE_EVALUATION, build_accepted, build_comparison
from icl_embed.pipeline.run import Run
from icl_embed.pipeline.stages import score, task_data
from icl_embed.pipeline.teacher import build_teacher_scores
from icl_embed.pipeline.training import OnLine, build_embedder, build_reranker
from icl_embed.store import Artefact, StageKey

Counts = Mapping[str, Any]


def build(
    run: Run, key: StageKey, on_line: OnLine | None = None, on_start: Callable[[], None] | None = None
) -> Artefact:
    """The artefact of a key: verified if it is there, produced if not.

    Parameters
        on_line: called with every line that a long subprocess prints.
        on_start: called when the artefact is not there and producing it begins.

    Raises
        StoreError: an input is missing or damaged, the artefact is locked, or the disk refuses.
        IclEmbedError: whatever the stage itself refuses.
    """

    def produce(out_dir: Path) -> Counts:
        if on_start is not None:
            on_start()
        if key.stage in _TRAINERS:
            return _TRAINERS[key.stage](run, key, out_dir, on_line)
        return _BUILDERS[key.stage](run, key, out_dir)

    return run.store.build(key, produce)


def _build_base_model(run: Run, key: StageKey, out_dir: Path) -> Counts:
    from icl_embed.model.base import fetch_base_model

    wanted = settings_of(key, run.config.model)
    counts = fetch_base_model(wanted, run.config.paths.downloads, out_dir)
    refuse_changed(run.config, key)
    refuse_unfit_folder(run.config, out_dir)
    return counts


def _build_dataset(run: Run, key: StageKey, out_dir: Path) -> Counts:
    from icl_embed.corpus.dataset import build_dataset

    return build_dataset(run.card(key.label), run.config.paths.downloads, out_dir, **key.settings["caps"])


def _build_pool(run: Run, key: StageKey, out_dir: Path) -> Counts:
    from icl_embed.pool.build import build_pool
    from icl_embed.pool.inputs import PoolInput

    inputs = []
    for name in key.inputs:
        card, artefact = run.card(name), run.input(key, name)
        inputs.append(
            PoolInput(
                name=name,
                kind=card.kind,
                instruction=card.instruction,
                folder=artefact.path,
                trained=name in key.settings["trained"],
                fingerprint=artefact.fingerprint,
            )
        )
    return build_pool(inputs, PoolConfig(**key.settings["pool"]), out_dir, seed=key.settings["seed"])


def _build_negatives(run: Run, key: StageKey, out_dir: Path) -> Counts:
    from icl_embed.pool.negatives import mine_negatives

    embed = None
    if "base-model" in key.inputs:
        from icl_embed.model.embedder import Embedder

        embedder = Embedder.load(run.input(key, "base-model").path)

        def embed(texts: Sequence[str], instruction: str | None) -> Any:
            if instruction is None:
                return embedder.encode_passages(texts)
            return embedder.encode_queries(texts, instruction=instruction)

    config = NegativesConfig(**key.settings["negatives"])
    return mine_negatives(
        run.input(key, "pool").path, out_dir, config, seed=key.settings["seed"], embed=embed
    )


_BUILDERS: Mapping[str, Callable[[Run, StageKey, Path], Counts]] = {
    "base-model": _build_base_model,
    "dataset": _build_dataset,
    "pool": _build_pool,
    "negatives": _build_negatives,
    "checkpoint": build_checkpoint_model,
    "reranker-choice": build_reranker_choice,
    "reranker-evaluation": build_reranker_evaluation,
    "report": build_report,
    task_data.STAGE: task_data.build_task_data,
    score.STAGE: score.build_score,
    RE_EVALUATION: build_comparison,
    ACCEPTED: build_accepted,
}

_TRAINERS: Mapping[str, Callable[[Run, StageKey, Path, OnLine | None], Counts]] = {
    "embedder": build_embedder,
    "reranker": build_reranker,
    "teacher-scores": build_teacher_scores,
}
