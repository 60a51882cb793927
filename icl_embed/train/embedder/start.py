"""Going on from an adapter that another training left: found, recognised by its content, and checked to fit.

Only the weights are taken over; optimizer, schedule and data begin anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl_embed.errors import ConfigError, ModelError, TrainingError
from icl_embed.model.fingerprints import folder_fingerprint
from icl_embed.model.lora import ADAPTER_FOLDER, ADAPTER_WEIGHTS, load_adapter

ADAPTER_CONFIG = "adapter_config.json"

# What an adapter is besides its weights, as peft calls it -> the setting that decides it here.
SHAPE: Mapping[str, str] = {
    "r": "train.lora.rank",
    "lora_alpha": "train.lora.alpha",
    "target_modules": "train.lora.targets",
    "use_rslora": "",
    "use_dora": "",
    "rank_pattern": "",
    "alpha_pattern": "",
}


def find_adapter(folder: Path) -> Path:
    """The folder of the adapter: the one given, or ``adapter`` in that of a trained model.

    Raises
        ConfigError: neither holds one.
    """
    for place in (folder, folder / ADAPTER_FOLDER):
        if (place / ADAPTER_WEIGHTS).is_file() and (place / ADAPTER_CONFIG).is_file():
            return place
    found = "nothing, it does not exist"
    if folder.is_dir():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "an empty folder"
    raise ConfigError(
        f"train.start_from is {folder}: expected {ADAPTER_WEIGHTS} and {ADAPTER_CONFIG}, there or in its "
        f"folder {ADAPTER_FOLDER}; found {found}. Name the folder of a LoRA adapter, or of a model that was "
        "trained with train.tuning = 'lora'"
    )


def adapter_fingerprint(folder: Path) -> str:
    """What names an adapter in a key: its content, not where it lies.

    Raises
        ConfigError: as ``find_adapter``.
    """
    return folder_fingerprint(find_adapter(folder))


def start_from(model: Any, folder: Path) -> None:
    """Give a model whose adapters are attached the weights to go on from.

    Raises
        ConfigError: as ``find_adapter``.
        TrainingError: an adapter of another rank, scale or other layers than the config asks for.
        ModelError: its weights are not of this base model.
    """
    from peft import get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    adapter = find_adapter(folder)
    _refuse_other_shape(adapter, model.peft_config["default"].to_dict())
    wanted = get_peft_model_state_dict(model, save_embedding_layers=False)
    try:
        with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as weights:
            found = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{adapter / ADAPTER_WEIGHTS} cannot be read: {error}; copy it again") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    wrong = sorted(name for name in shapes.keys() | found if shapes.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise ModelError(
            f"train.start_from: the adapter in {adapter} is not of this base model: of {name} expected "
            f"{_size(shapes.get(name))}, found {_size(found.get(name))}; start from an adapter of the same "
            "base, trained with the same tokens (model.template.special_tokens)"
        )
    load_adapter(model, adapter)


def _size(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else " × ".join(map(str, shape))


def _refuse_other_shape(adapter: Path, wanted: Mapping[str, Any]) -> None:
    try:
        config = dict(json.loads((adapter / ADAPTER_CONFIG).read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{adapter / ADAPTER_CONFIG} is damaged: {error}; copy it again") from error
    for name, setting in SHAPE.items():
        expected, found = _plain(wanted.get(name)), _plain(config.get(name, wanted.get(name)))
        if expected != found:
            hint = f"set {setting} to it" if setting else "such an adapter cannot be trained on here"
            raise TrainingError(
                f"train.start_from: {name} of the adapter in {adapter} is {found}, this training has "
                f"{expected}; {hint}, or start from another adapter"
            )


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | list | tuple) else value
