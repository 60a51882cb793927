"""Weights on the way: what training keeps of its earlier steps, and a model folder made of them.

A snapshot is what was trained and nothing else: the adapter, or all weights when all are tuned. That is
megabytes per snapshot instead of gigabytes; ``build_checkpoint`` puts it on the base model again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icl_embed.config import LoraConfig, TrainConfig
from icl_embed.errors import TrainingError
from icl_embed.model.backbone import load_backbone
from icl_embed.model.dtype import resolve_device, resolve_dtype
from icl_embed.model.lora import attach, load_adapter, merge
from icl_embed.model.settings import EmbedderSettings, add_special_tokens, write_settings

SNAPSHOTS = "snapshots"
BEST = "best"  # weights that may be published in place of the last ones; they stay in the work folder


def snapshot_steps(train: TrainConfig, steps: int) -> list[int]:
    """Those of so many steps after which weights are kept; the last step's are the model itself."""
    every = train.snapshot_every
    return list(range(every, steps, every)) if every else []


def snapshot_folder(root: Path, step: int, family: str = SNAPSHOTS) -> Path:
    """Where the weights of a step are, below a work folder or an embedder artefact."""
    return root / family / f"step-{step:06d}"


def build_checkpoint(
    base_dir: Path,
    snapshot: Path,
    out_dir: Path,
    *,
    train: TrainConfig,
    settings: EmbedderSettings,
    dtype: str,
) -> None:
    """A model folder of an earlier step, as training itself publishes the last one.

    Raises
        TrainingError: training kept no weights of that step.
        ModelError: base model or snapshot cannot be read.
    """
    if not snapshot.is_dir():
        raise TrainingError(
            f"there is no {snapshot.name} in {snapshot.parent}; train with train.snapshot_every"
        )
    place = resolve_device("cpu")
    source = base_dir if train.tuning == "lora" else snapshot
    model, tokenizer = load_backbone(source, device=place, dtype=resolve_dtype(dtype, place))
    if train.tuning == "lora":
        model = _adapted(model, tokenizer, snapshot, train.lora, settings)
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    write_settings(out_dir, settings)


def _adapted(model: Any, tokenizer: Any, snapshot: Path, lora: LoraConfig, settings: EmbedderSettings) -> Any:
    tokens = add_special_tokens(model, tokenizer) if settings.template.special_tokens else []
    adapted = attach(model, lora, seed=0, trained_tokens=tokens)
    load_adapter(adapted, snapshot)
    return merge(adapted)
