"""DeepSpeed settings of a user's own file: read, and held against what our config decides.

People have such a file for their cluster (offload, buckets, overlap, communication). What it says is merged
over our settings; where it decides something that one of our options decides too, both must say the same, or
the file says ``"auto"``, as files written for the transformers trainer do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

# The keys of deepspeed 0.19's runtime/config.py that concern training as we do it. ``zero_optimization`` is
# checked by DeepSpeed's own schema when the engine starts.
FREE = frozenset(
    {
        "aio",
        "bf16",
        "checkpoint",
        "comms_logger",
        "communication_data_type",
        "csv_monitor",
        "data_types",
        "disable_python_gc",
        "dump_state",
        "flops_profiler",
        "gradient_predivide_factor",
        "log_level",
        "memory_breakdown",
        "prescale_gradients",
        "steps_per_print",
        "timers",
        "wall_clock_breakdown",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "zero_optimization",
    }
)
# Who decides instead of the file, and what the file may still say: nothing but "auto", or the same.
OURS = {
    "optimizer": "optimizer.learning_rate and optimizer.weight_decay (AdamW)",
    "scheduler": "optimizer.schedule and optimizer.warmup_steps",
    "train_batch_size": "batch_size",
    "train_micro_batch_size_per_gpu": "batch_size and batch_tokens",
    "gradient_accumulation_steps": "gradient_cache and batch_tokens",
    "gradient_clipping": "optimizer.max_grad_norm",
    "fp16": "model.dtype (bfloat16 or float32)",
    "activation_checkpointing": "activation_checkpointing",
}
AUTO = "auto"
LARGEST_FILE = 1 << 20  # bytes; real ones have two thousand


def read_deepspeed(value: Any) -> Any:
    """The settings of a JSON file, or of a table in TOML, without what is ``"auto"``.

    Raises
        ValueError: no such file, not a JSON object, or a key that DeepSpeed or this trainer does not have.
    """
    found = _read(Path(value).expanduser()) if isinstance(value, (str, Path)) else value
    if not isinstance(found, Mapping):
        raise ValueError(f"expected the path of a JSON file or a table, found {type(found).__name__}")
    settings = _without_auto(found)
    for name in settings:
        if name in OURS or name in FREE:
            continue
        near = get_close_matches(name, [*FREE, *OURS], n=1)
        hint = f"; did you mean {near[0]}" if near else ""
        raise ValueError(
            f"{name!r} is no DeepSpeed setting that this trainer knows{hint}; known are "
            + ", ".join(sorted([*FREE, *OURS]))
        )
    if settings.get("fp16") == {"enabled": False}:  # as half of all files say; it asks for nothing
        del settings["fp16"]
    return settings


def refuse_conflicts(theirs: Mapping[str, Any], *, zero_stage: int, max_grad_norm: float) -> None:
    """Say which of our options decides what the file decides too, if they do not agree.

    Raises
        ValueError: they do not.
    """
    decided: dict[str, tuple[str, float]] = {
        "zero_optimization.stage": ("optimizer.zero_stage", zero_stage),
        "gradient_clipping": ("optimizer.max_grad_norm", max_grad_norm),
    }
    for path, value in leaves(theirs):
        top = path.partition(".")[0]
        option, mine = decided.get(path, (OURS.get(top, ""), None))
        if option and value != mine:
            said = f"is {mine!r}" if path in decided else "decides that"
            raise ValueError(
                f"the DeepSpeed settings say {path} = {value!r}, but {option} {said}; take it out of the "
                f'file (or write "{AUTO}") and set the option'
            )


def leaves(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no table, with its dotted path."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Ours with theirs over them, table by table."""
    result = dict(ours)
    for name, value in theirs.items():
        before = result.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            result[name] = merged(before, value)
        else:
            result[name] = value
    return result


def _read(path: Path) -> Any:
    try:
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise ValueError(f"{size} bytes are too many for DeepSpeed settings")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the DeepSpeed settings {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON of DeepSpeed settings: {error}") from error


def _without_auto(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Tables that have nothing but ``"auto"`` and the name of a type say nothing."""
    kept: dict[str, Any] = {}
    for name, value in settings.items():
        part = _without_auto(value) if isinstance(value, Mapping) else value
        says_nothing = part == AUTO or (isinstance(part, dict) and part.keys() <= {"type"})
        if not says_nothing:
            kept[name] = part
    return kept
