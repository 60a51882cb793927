"""The reranker as a folder without pickles: a Hugging Face decoder, its heads, and ``icl_rerank.json``.

A folder is believed only as a whole: every weight of the decoder must be in it (transformers would fill a gap
with random numbers), and the heads must be those that were saved with these settings.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from pydantic import Field, ValidationError

from icl_embed.config import Count, CountOrZero, PromptPlace, RerankConfig, Section
from icl_embed.errors import ConfigError, ModelError
from icl_embed.model.architectures import read_config, refuse_architecture
from icl_embed.model.backbone import quiet_transformers
from icl_embed.model.base import keep_first_layers, refuse_incomplete
from icl_embed.model.lora import merge
from icl_embed.rerank.decoder import part_of, refuse_unknown_backbone
from icl_embed.rerank.model import RerankerModel, ScoreHeads, heads_from_vocabulary
from icl_embed.rerank.pairs import CONTAINS_ANSWER
from icl_embed.rerank.shape import (
    Calibration,
    Shape,
    ShapeOptions,
    choose_shape,
    head_layers,
    refuse_bad_layers,
)
from icl_embed.store.files import write_atomically

SETTINGS_NAME = "icl_rerank.json"
HEADS_NAME = "heads.safetensors"


class RerankerSettings(Section):
    """Everything besides weights and tokenizer that decides a score."""

    head_layers: tuple[Count, ...] = Field(min_length=1)
    compress_layers: tuple[CountOrZero, ...] = ()
    max_tokens: Count = 256
    prompt: str = CONTAINS_ANSWER
    prompt_place: PromptPlace = "after"
    compress_pooling: Literal["mean", "attention"] = "mean"
    calibrations: tuple[Calibration, ...] = ()

    def shape(self, **options: Unpack[ShapeOptions]) -> Shape:
        """The shape that these options mean for such a reranker; none of them is full depth, uncompressed.

        Raises
            ConfigError: it cannot run it.
        """
        return choose_shape(self.head_layers, **options, default_layers=self.compress_layers)


class _Saved(RerankerSettings):
    """The content of ``icl_rerank.json``: the settings, and which heads belong to them."""

    heads_sha256: str = ""


def start_from(
    folder: Path, config: RerankConfig, *, device: torch.device, dtype: torch.dtype
) -> tuple[RerankerModel, Any, RerankerSettings]:
    """An untrained reranker, its tokenizer and settings, from a causal language model with its output head.

    Raises
        ModelError: the folder is not such a model, or its tokenizer has no ``Yes``.
        ConfigError: the config asks for layers that the model does not have.
    """
    from transformers import AutoModelForCausalLM

    language_model, tokenizer = _load(AutoModelForCausalLM, folder, device=device, dtype=dtype)
    keep_first_layers(language_model, config.num_layers)
    decoder = language_model.base_model
    refuse_unknown_backbone(decoder)
    layers = head_layers(config.start_layer, config.layer_step, len(part_of(decoder, "layers")))
    refuse_bad_layers(config.compress_layers, below=len(part_of(decoder, "layers")))
    heads = heads_from_vocabulary(tokenizer, language_model.get_output_embeddings().weight, layers)
    settings = RerankerSettings(
        head_layers=layers,
        compress_layers=config.compress_layers,
        max_tokens=config.max_tokens,
        prompt=config.prompt_sentence,
        prompt_place=config.prompt_place,
        compress_pooling=config.compress_pooling,
    )
    return RerankerModel(decoder, heads, pooling=config.compress_pooling), tokenizer, settings


def export_reranker(
    model: RerankerModel, tokenizer: Any, settings: RerankerSettings, out_dir: Path, *, adapted: Any = None
) -> None:
    """Write a reranker folder.

    Parameters
        adapted: the peft model around the decoder, if adapters were trained; they are merged.
    """
    from safetensors.torch import save

    decoder = model.decoder if adapted is None else merge(adapted)
    decoder.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    weights = {
        f"layer_{layer}": model.heads.by_layer[str(layer)].detach().cpu().contiguous()
        for layer in model.heads.layers
    }
    heads = save(weights)
    saved = _Saved(**settings.model_dump(), heads_sha256=hashlib.sha256(heads).hexdigest())
    write_atomically(out_dir / HEADS_NAME, heads)
    write_atomically(out_dir / SETTINGS_NAME, saved.model_dump_json(indent=1).encode())


def read_reranker(
    folder: Path, *, device: torch.device, dtype: torch.dtype
) -> tuple[RerankerModel, Any, RerankerSettings]:
    """A saved reranker, its tokenizer and settings.

    Raises
        ModelError: a file is missing or damaged, or the files do not belong together.
    """
    from transformers import AutoModel

    saved = _read_saved(folder)
    settings = _plain(saved)
    decoder, tokenizer = _load(AutoModel, folder, device=device, dtype=dtype)
    refuse_unknown_backbone(decoder)
    try:
        refuse_bad_layers(settings.compress_layers, below=len(part_of(decoder, "layers")))
    except ConfigError as error:
        raise ModelError(f"{folder / SETTINGS_NAME} does not fit the model beside it: {error}") from error
    width = int(decoder.config.hidden_size)
    heads = ScoreHeads(settings.head_layers, width).to(device, dtype)
    heads.load_state_dict(_read_heads(folder / HEADS_NAME, saved, width))
    return RerankerModel(decoder, heads, pooling=settings.compress_pooling).eval(), tokenizer, settings


def read_reranker_settings(folder: Path) -> RerankerSettings:
    """The settings of a reranker folder.

    Raises
        ModelError: missing or not valid.
    """
    return _plain(_read_saved(folder))


def _plain(saved: _Saved) -> RerankerSettings:
    return RerankerSettings(**saved.model_dump(exclude={"heads_sha256"}))


def _read_saved(folder: Path) -> _Saved:
    path = folder / SETTINGS_NAME
    try:
        return _Saved.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(f"{folder} has no {SETTINGS_NAME}; it is not a reranker of this package") from error
    except (OSError, ValidationError) as error:
        raise ModelError(f"{path} is not valid: {error}") from error


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Keep the calibration of a shape in a reranker folder, in place of an earlier one of that shape.

    Raises
        ModelError: it is not a reranker folder.
    """
    settings = _read_saved(folder)
    others = [one for one in settings.calibrations if one.shape != calibration.shape]
    kept = settings.model_copy(update={"calibrations": (*others, calibration)})
    write_atomically(folder / SETTINGS_NAME, kept.model_dump_json(indent=1).encode())


def _load(kind: Any, folder: Path, *, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """A transformers model of a kind, with all its weights from safetensors, and the tokenizer.

    Raises
        ModelError: the folder is incomplete or damaged, or holds no such weights.
    """
    from safetensors import SafetensorError
    from transformers import AutoTokenizer

    refuse_incomplete(folder)
    refuse_architecture(read_config(folder), str(folder))
    quiet_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model, loading = kind.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"cannot load the model in {folder}: {error}") from error
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise ModelError(
            f"{folder} lacks {missing}; it must hold every weight, and for a new reranker those of a whole "
            "causal language model: copy the folder from its source"
        )
    return model.to(device), tokenizer


def _read_heads(path: Path, settings: _Saved, width: int) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = path.read_bytes()
        weights = load(data)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the score heads {path}: {error}") from error
    expected = {f"layer_{layer}": (width,) for layer in settings.head_layers}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if found != expected:
        raise ModelError(
            f"{path} does not fit {SETTINGS_NAME}: expected heads {sorted(expected)} of width {width}, "
            f"found {found}"
        )
    if settings.heads_sha256 and hashlib.sha256(data).hexdigest() != settings.heads_sha256:
        raise ModelError(
            f"{path} is not the file that was saved with {SETTINGS_NAME}: it is damaged, or of another "
            "reranker; copy the whole folder from its source"
        )
    if not all(bool(weight.isfinite().all()) for weight in weights.values()):
        raise ModelError(f"{path} holds weights that are not finite; train the reranker again")
    return {f"by_layer.{name.removeprefix('layer_')}": weight for name, weight in weights.items()}
