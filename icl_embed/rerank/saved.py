"""The reranker as a folder without pickles: a Hugging Face decoder, its heads, and ``icl_rerank.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from icl_embed.config import Count, CountOrZero, RerankConfig, Section
from icl_embed.errors import ModelError
from icl_embed.model.backbone import load_backbone, quiet_transformers
from icl_embed.model.base import refuse_incomplete
from icl_embed.model.lora import merge
from icl_embed.rerank.decoder import refuse_unknown_backbone
from icl_embed.rerank.model import RerankerModel, ScoreHeads, heads_from_vocabulary
from icl_embed.rerank.pair_tokens import CONTAINS_ANSWER
from icl_embed.rerank.shape import head_layers, refuse_bad_layers
from icl_embed.store.files import write_atomically

SETTINGS_NAME = "icl_rerank.json"
HEADS_NAME = "heads.safetensors"


class RerankerSettings(Section):
    """Everything besides weights and tokenizer that decides a score."""

    head_layers: tuple[Count, ...]
    compress_layers: tuple[CountOrZero, ...] = ()
    max_tokens: Count = 256
    prompt: str = CONTAINS_ANSWER


def start_from(
    folder: Path, config: RerankConfig, *, device: torch.device, dtype: torch.dtype
) -> tuple[RerankerModel, Any, RerankerSettings]:
    """An untrained reranker, its tokenizer and settings, from a causal language model with its output head.

    Raises
        ModelError: the folder is not such a model, or its tokenizer has no ``Yes``.
        ConfigError: the config asks for layers that the model does not have.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    refuse_incomplete(folder)
    quiet_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        language_model, loading = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load the model in {folder}: {error}") from error
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise ModelError(f"{folder} lacks {missing}; a reranker starts from a whole causal language model")
    language_model.to(device)
    decoder = language_model.base_model
    refuse_unknown_backbone(decoder)
    layers = head_layers(config.start_layer, config.layer_step, len(decoder.layers))
    refuse_bad_layers(config.compress_layers, below=len(decoder.layers))
    heads = heads_from_vocabulary(tokenizer, language_model.get_output_embeddings().weight, layers)
    settings = RerankerSettings(
        head_layers=layers, compress_layers=config.compress_layers, max_tokens=config.max_tokens
    )
    return RerankerModel(decoder, heads), tokenizer, settings


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
    write_atomically(out_dir / HEADS_NAME, save(weights))
    write_atomically(out_dir / SETTINGS_NAME, settings.model_dump_json(indent=1).encode())


def read_reranker(
    folder: Path, *, device: torch.device, dtype: torch.dtype
) -> tuple[RerankerModel, Any, RerankerSettings]:
    """A saved reranker, its tokenizer and settings.

    Raises
        ModelError: a file is missing or damaged, or the files do not belong together.
    """
    settings = read_reranker_settings(folder)
    decoder, tokenizer = load_backbone(folder, device=device, dtype=dtype)
    refuse_unknown_backbone(decoder)
    width = int(decoder.config.hidden_size)
    heads = ScoreHeads(settings.head_layers, width).to(device, dtype)
    heads.load_state_dict(_read_heads(folder / HEADS_NAME, settings, width))
    return RerankerModel(decoder, heads).eval(), tokenizer, settings


def read_reranker_settings(folder: Path) -> RerankerSettings:
    """The settings of a reranker folder.

    Raises
        ModelError: missing or not valid.
    """
    path = folder / SETTINGS_NAME
    try:
        return RerankerSettings.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(f"{folder} has no {SETTINGS_NAME}; it is not a reranker of this package") from error
    except (OSError, ValidationError) as error:
        raise ModelError(f"{path} is not valid: {error}") from error


def _read_heads(path: Path, settings: RerankerSettings, width: int) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the score heads {path}: {error}") from error
    expected = {f"layer_{layer}": (width,) for layer in settings.head_layers}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if found != expected:
        raise ModelError(
            f"{path} does not fit {SETTINGS_NAME}: expected heads {sorted(expected)} of width {width}, "
            f"found {found}"
        )
    return {f"by_layer.{name.removeprefix('layer_')}": weight for name, weight in weights.items()}
