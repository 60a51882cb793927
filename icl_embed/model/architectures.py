"""Which language models we run, what their parts are called, and which we refuse.

A model is known by the ``model_type`` of its config. Those listed here are tested with tiny models of their
kind (``tests/icl_embed/model/test_architectures.py``; the table in the README is made of this file). Others
are tried when the base model is fetched: packed attention must give what their own attention gives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from icl_embed.errors import ModelError


@dataclass(frozen=True)
class Architecture:
    """Where the parts of a headless model are, and what stands for the linear layers that Llama has.

    Attributes
        positions: a table of learned positions, added to the embeddings; empty where positions are rotary.
        linears: names of Llama's linear layers, and what has their part here.
    """

    title: str
    embed: str = "embed_tokens"
    positions: str = ""
    layers: str = "layers"
    norm: str = "norm"
    rotary: str = "rotary_emb"
    linears: Mapping[str, str] = field(default_factory=dict)

    def part(self, decoder: Any, name: str) -> Any:
        """One of the parts of a decoder; None where it has none."""
        path = getattr(self, name)
        return (
            reduce(lambda part, step: getattr(part, step, None), path.split("."), decoder) if path else None
        )


def _attention(fused: str, out: str) -> dict[str, str]:
    return {"q_proj": fused, "k_proj": fused, "v_proj": fused, "o_proj": out}


def _two_layers(first: str, second: str) -> dict[str, str]:
    """A feed-forward part without a gate."""
    return {"gate_proj": first, "up_proj": first, "down_proj": second}


KNOWN: Mapping[str, Architecture] = {
    "llama": Architecture("Llama"),
    "qwen2": Architecture("Qwen2"),
    "qwen3": Architecture("Qwen3"),
    "mistral": Architecture("Mistral"),
    "gemma": Architecture("Gemma"),
    "gemma2": Architecture("Gemma2"),
    "gemma3_text": Architecture("Gemma3 (text)"),
    "phi3": Architecture(
        "Phi3",
        linears={
            **_attention("qkv_proj", "o_proj"),
            **_two_layers("gate_up_proj", "down_proj"),
        },
    ),
    "smollm3": Architecture("SmolLM3"),
    "granite": Architecture("Granite"),
    "olmo2": Architecture("Olmo2"),
    "gpt2": Architecture(
        "GPT-2",
        embed="wte",
        positions="wpe",
        layers="h",
        norm="ln_f",
        rotary="",
        linears={**_attention("attn.c_attn", "attn.c_proj"), **_two_layers("mlp.c_fc", "mlp.c_proj")},
    ),
    "gpt_neox": Architecture(
        "GPT-NeoX",
        embed="embed_in",
        norm="final_layer_norm",
        linears={
            **_attention("query_key_value", "attention.dense"),
            **_two_layers("dense_h_to_4h", "dense_4h_to_h"),
        },
    ),
    "opt": Architecture(
        "OPT",
        embed="decoder.embed_tokens",
        positions="decoder.embed_positions",
        layers="decoder.layers",
        norm="decoder.final_layer_norm",
        rotary="",
        linears={"o_proj": "out_proj", **_two_layers("fc1", "fc2")},
    ),
}

_OWN_ATTENTION = "its attention is written so that no other can take its place"
REFUSED: Mapping[str, tuple[str, str]] = {  # title, why
    "bloom": ("Bloom", "its positions (ALiBi) are added within its own attention"),
    "mpt": ("MPT", "its positions (ALiBi) are added within its own attention"),
    "falcon": ("Falcon", _OWN_ATTENTION),
    "gptj": ("GPT-J", _OWN_ATTENTION),
    "gpt_neo": ("GPT-Neo", _OWN_ATTENTION),
    "codegen": ("CodeGen", _OWN_ATTENTION),
    "stablelm": ("StableLM", _OWN_ATTENTION),
    "nemotron": ("Nemotron", _OWN_ATTENTION),
    "gpt_oss": ("GPT-OSS", "it has attention sinks"),
    "gemma3": ("Gemma3 (with images)", "it reads images; name a text model (model_type gemma3_text)"),
    "mamba": ("Mamba", "it has no attention, so examples cannot be shared"),
}


def architecture_of(config: Any) -> Architecture:
    """The parts of a model, by its transformers config; those of Llama for a type that is not listed."""
    return KNOWN.get(str(getattr(config, "model_type", "")), KNOWN["llama"])


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a model folder; reads no weights and imports no library.

    Raises
        ModelError: missing, or not a JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(f"{folder} has no config.json; expected a Hugging Face model folder") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a JSON object; copy the model again from its source")
    return config


def refuse_architecture(config: Mapping[str, Any], where: str) -> None:
    """Refuse what is known not to work; a type that is not listed is tried later.

    Raises
        ModelError: the architecture, why it is refused, and which are supported.
    """
    kind = str(config.get("model_type", ""))
    title, why = REFUSED.get(kind, (kind, ""))
    if kind == "opt" and not (
        config.get("do_layer_norm_before", True)
        and config.get("word_embed_proj_dim", config.get("hidden_size")) == config.get("hidden_size")
    ):
        title, why = "this OPT (350m)", "it normalises after its layers and projects its embeddings"
    if config.get("is_encoder_decoder"):
        why = "it is an encoder and a decoder; a decoder alone is needed"
    if config.get("use_bidirectional_attention"):
        why = "it was trained with bidirectional attention; a causal language model is needed"
    if why:
        supported = ", ".join(one.title for one in KNOWN.values())
        raise ModelError(f"{where} is a model of the type {title}: {why}. Supported are {supported}")


def sliding_window(config: Mapping[str, Any]) -> int | None:
    """How many tokens the model looks back in some of its layers; None where it always sees all."""
    if config.get("use_sliding_window") is False:
        return None
    if config.get("model_type") in ("qwen2", "qwen3") and not config.get("use_sliding_window"):
        return None  # off unless it is asked for
    kinds = config.get("layer_types")
    if kinds and "sliding_attention" not in kinds:
        return None
    window = config.get("sliding_window")
    return int(window) if window else None


def linear_names(config: Any, targets: Sequence[str]) -> list[str]:
    """What the layers that Llama calls ``targets`` are called in a model."""
    linears = architecture_of(config).linears
    return list(dict.fromkeys(linears.get(target, target) for target in targets))
