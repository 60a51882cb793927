"""The models that can be teachers of pairs: our rerankers, causal language models, cross-encoders.

All give scores on the scale of logits: a softmax over the candidates of a query is the distribution that a
student imitates, and a sigmoid in between would flatten it.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from icl_embed.config import EngineConfig, RerankConfig, TeacherConfig
from icl_embed.engines.engine import device_of, spread_over
from icl_embed.errors import ModelError
from icl_embed.model.backbone import load_description
from icl_embed.model.dtype import resolve_device, resolve_dtype
from icl_embed.model.sentence_transformer import MODULES_NAME, refuse_pickles
from icl_embed.rerank.folder import SETTINGS_NAME, start_from
from icl_embed.rerank.forward import Scores
from icl_embed.rerank.reranker import Reranker
from icl_embed.rerank.scorer_pool import ScorerPool
from icl_embed.teacher.scores import Pair
from icl_embed.teacher.scoring import ScorePairs

ABOUT_NAME = "config_sentence_transformers.json"
OWN_MODULES = "sentence_transformers."
SCORING = ("ForSequenceClassification", "ForCausalLM", "CrossEncoder")
BATCH_PAIRS = 32
LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, AttributeError, ImportError, TypeError)


def load_teacher(
    config: TeacherConfig,
    folder: Path,
    *,
    max_tokens: int,
    device: str = "auto",
    dtype: str = "auto",
) -> ScorePairs:
    """A function that scores (query, passage) pairs with the model in a folder.

    The sources ``own`` and ``reranker`` read a reranker of this package at full depth, uncompressed;
    ``reranker`` also reads a causal language model, by the logit of its ``Yes``.

    Parameters
        max_tokens: longest pair that a causal language model is shown; the others know their own limit.

    Raises
        ModelError: the folder is not such a model, is damaged, or would have to run code.
    """
    if config.source == "cross_encoder":
        return _cross_encoder(folder, device=device, dtype=dtype)
    if config.source == "reranker" and not (folder / SETTINGS_NAME).is_file():
        reranker = _untrained(folder, max_tokens, device=device, dtype=dtype)
    else:
        reranker = Reranker.load(folder, device=device, dtype=dtype)

    def score(pairs: Sequence[Pair]) -> Scores:
        return reranker.score(pairs, batch_tokens=config.batch_tokens)

    return score


def open_teacher(
    config: TeacherConfig, folder: Path, engine: EngineConfig, *, max_tokens: int, dtype: str = "auto"
) -> ScorePairs:
    """``load_teacher`` on every device of the engine.

    Raises
        ConfigError, ModelError: as ``load_teacher``, told by a worker.
    """
    devices = spread_over(engine)
    load = partial(_teacher_on, config, folder.resolve(), max_tokens, dtype)
    if devices is None:
        return load(device_of(engine))
    return ScorerPool.start(engine, devices, "teacher", load).score


def _teacher_on(config: TeacherConfig, folder: Path, max_tokens: int, dtype: str, device: str) -> ScorePairs:
    return load_teacher(config, folder, max_tokens=max_tokens, device=device, dtype=dtype)


def _untrained(folder: Path, max_tokens: int, *, device: str, dtype: str) -> Reranker:
    """A causal language model with one head, its own ``Yes``, after the last layer."""
    refuse_pickles(folder)
    depth = int(load_description(folder)[0].num_hidden_layers)
    config = RerankConfig(start_layer=depth, compress_layers=(), max_tokens=max_tokens)
    place = resolve_device(device)
    model, tokenizer, settings = start_from(folder, config, device=place, dtype=resolve_dtype(dtype, place))
    return Reranker(model.eval(), tokenizer, settings)


def _cross_encoder(folder: Path, *, device: str, dtype: str) -> ScorePairs:
    try:
        library = importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise ModelError(
            f"{folder} is read by sentence-transformers, and that package is not installed; "
            "pip install sentence-transformers"
        ) from error
    _refuse_foreign(folder)
    place = resolve_device(device)
    number_format = str(resolve_dtype(dtype, place)).removeprefix("torch.")
    try:
        model = library.CrossEncoder(
            str(folder),
            device=str(place),
            local_files_only=True,
            trust_remote_code=False,
            activation_fn=torch.nn.Identity(),  # logits; and nothing that the folder names is imported
            model_kwargs={"use_safetensors": True, "dtype": number_format},
        )
        num_labels = int(model.num_labels)
    except (*LOADING_ERRORS, SafetensorError) as error:
        raise ModelError(
            f"{folder} cannot be loaded as a cross-encoder: {error}; copy it again from its source"
        ) from error
    if num_labels != 1:
        raise ModelError(
            f"{folder} sorts pairs into {num_labels} classes; a teacher needs a cross-encoder with one score"
        )

    def score(pairs: Sequence[Pair]) -> Any:
        return model.predict(list(pairs), batch_size=BATCH_PAIRS, show_progress_bar=False)

    return score


def _refuse_foreign(folder: Path) -> None:
    """Only safetensors, only classes of the library itself, and only a model that has a score.

    Raises
        ModelError: no such folder, weights that run code when read, code named by the folder, or an encoder
            without a head (its score would come from random weights).
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; expected the folder of a cross-encoder")
    refuse_pickles(folder)
    if not any(folder.rglob("*.safetensors")):
        raise ModelError(f"{folder} holds no *.safetensors; only such weights are read")
    try:
        config = json.loads((folder / "config.json").read_bytes())
        names = list(config.get("architectures") or [])
        has_modules = (folder / MODULES_NAME).is_file()
        modules = json.loads((folder / MODULES_NAME).read_bytes()) if has_modules else []
        foreign = [one["type"] for one in modules if not one["type"].startswith(OWN_MODULES)]
        if has_modules:
            names = [json.loads((folder / ABOUT_NAME).read_bytes()).get("model_type")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"the description of the model in {folder} cannot be read: {error}") from error
    if foreign or "auto_map" in config:
        raise ModelError(
            f"{folder} asks to run code of its own ({', '.join(foreign) or 'auto_map'}); we never do that"
        )
    if not any(str(name).endswith(SCORING) for name in names):
        raise ModelError(f"{folder} is a {names[0] if names else 'model'} without a score, no cross-encoder")
