"""The transformer under the embedder: load it, run it over packed token lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icl_embed.errors import ModelError
from icl_embed.model.architectures import KNOWN, read_config, refuse_architecture
from icl_embed.model.attention import use_packed_attention
from icl_embed.model.base import refuse_incomplete
from icl_embed.model.batching import Group
from icl_embed.model.packing import Pack, PrefixStates, pack
from icl_embed.prompts import SLOT, Tokens

PROBE_TOKENS = 8
PROBE_TOLERANCE = 1e-3  # of a state's length
PROBE_TOLERANCE_16_BITS = 0.25  # between kernels: each layer rounds, and another order rounds otherwise


def load_backbone(folder: Path, *, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """The headless model and its tokenizer.

    Raises
        ModelError: the folder is incomplete or transformers cannot read it.
    """
    from transformers import AutoModel, AutoTokenizer

    with _reading(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModel.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
    return model.to(device), tokenizer


def load_description(folder: Path) -> tuple[Any, Any]:
    """The model's config and its tokenizer, without weights.

    Raises
        ModelError: the folder is incomplete or transformers cannot read it.
    """
    from transformers import AutoConfig, AutoTokenizer

    with _reading(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return AutoConfig.from_pretrained(folder, trust_remote_code=False), tokenizer


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    refuse_incomplete(folder)
    refuse_architecture(read_config(folder), str(folder))
    quiet_transformers()
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load the model in {folder}: {error}") from error


def quiet_transformers() -> None:
    """Keep loading reports out of our output: an unused language-model head is what we want, not news."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def token_states(model: Any, pack: Pack, slots_SD: Tensor | None = None) -> Tensor:
    """Final hidden states [T, D] of a packed batch; differentiable.

    Parameters
        slots_SD: input embeddings for the slots of the pack, in order.

    Raises
        ModelError: the architecture does not hand our layout to its attention, or cannot attend that way.
    """
    inputs = {"input_ids": pack.tokens[None]} if slots_SD is None else _with_slots(model, pack, slots_SD)
    output = model(**inputs, position_ids=pack.positions[None], use_cache=False, layout=pack.layout)
    states: Tensor = output.last_hidden_state
    return states[0]


def refuse_unfaithful(model: Any) -> None:
    """Check, on a few tokens, that packed attention gives what the model's own attention gives.

    The model is left as it was.

    Raises
        ModelError: it does not, or the architecture takes no other attention than its own.
    """
    name = type(model).__name__
    tokens = torch.arange(1, 1 + PROBE_TOKENS, device=model.device)
    half = PROBE_TOKENS // 2
    rows = [tokens[half:].tolist(), tokens[half:-1].tolist()]  # two, so that the first half is shared
    packed = pack([Group(rows, tokens[:half].tolist())], device=model.device)
    recorded: list[tuple[Tensor, Tensor]] = []
    before = model.config._attn_implementation
    was_training = model.training
    try:
        model.eval()
        with torch.no_grad():
            model.config._attn_implementation = "eager"
            expected = model(input_ids=tokens[None], use_cache=False).last_hidden_state[0]
            use_packed_attention(model)
            states = token_states(model, replace(packed, layout=replace(packed.layout, recorded=recorded)))
    except (AttributeError, TypeError, ValueError, KeyError, IndexError, RuntimeError, ModelError) as error:
        raise ModelError(f"{name} cannot attend to packed sequences: {error}. {_supported()}") from error
    finally:
        model.train(was_training)
        model.config._attn_implementation = before
    if len(recorded) != model.config.num_hidden_layers:
        raise ModelError(
            f"{name} cannot attend to packed sequences: {len(recorded)} of its "
            f"{model.config.num_hidden_layers} layers take another attention than their own. {_supported()}"
        )
    tolerance = PROBE_TOLERANCE if states.dtype == torch.float32 else PROBE_TOLERANCE_16_BITS
    for start, row in zip(packed.starts.tolist(), rows, strict=True):
        found, wanted = states[start : start + len(row)], expected[half : half + len(row)]
        # The median token: in 16 bits a rare one differs by as much between transformers' own eager and sdpa.
        if not bool(differences(found, wanted).median() <= tolerance):  # not a number is refused as well
            raise ModelError(
                f"packed attention does not give what the own attention of {name} gives. {_supported()}"
            )


def differences(found_TD: Tensor, expected_TD: Tensor) -> Tensor:
    """Lengths [T] of the differences, in units of the expected lengths."""
    expected = expected_TD.float()
    lengths: Tensor = (found_TD.float() - expected).norm(dim=-1) / expected.norm(dim=-1)
    return lengths


def _supported() -> str:
    return f"Supported are {', '.join(one.title for one in KNOWN.values())}"


def _with_slots(model: Any, pack: Pack, slots_SD: Tensor) -> dict[str, Tensor]:
    embeddings = model.get_input_embeddings()(pack.tokens.clamp(min=0))
    is_slot = (pack.tokens == SLOT)[:, None]
    return {"inputs_embeds": embeddings.masked_scatter(is_slot, slots_SD.to(embeddings.dtype))[None]}


def encode_prefix(model: Any, tokens: Tokens, slots_SD: Tensor | None = None) -> PrefixStates:
    """Run a prefix once and keep its keys and values."""
    packed = pack([Group([tokens])], device=model.device)
    recorded: list[tuple[Tensor, Tensor]] = []
    token_states(model, replace(packed, layout=replace(packed.layout, recorded=recorded)), slots_SD)
    return PrefixStates(tuple(key for key, _ in recorded), tuple(value for _, value in recorded))
