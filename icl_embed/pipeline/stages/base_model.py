"""Stage ``base-model``: the causal language model that everything starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import BaseModelConfig, RunConfig
from icl_embed.errors import ConfigError, ModelError
from icl_embed.model.architectures import read_config, refuse_architecture, sliding_window
from icl_embed.model.base import refuse_incomplete
from icl_embed.store import StageKey, Store
from icl_embed.store.digests import digests_of
from icl_embed.store.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from icl_embed.pipeline.run import Run


STAGE, VERSION = "base-model", 1
DIGESTS_NAME = ".digests.json"  # in the store
USED_LATER = {"dtype", "attention", "pooling", "template", "prompt"}
READ_SUFFIXES = {".safetensors", ".json", ".txt", ".model", ".jinja"}  # what transformers reads of a folder
OLD_WEIGHTS = ".bin"  # read where there are no others


def base_model_key(config: RunConfig, model: BaseModelConfig | None = None) -> StageKey:
    """The key of a base model: of a package or the hub by its pin, of a folder by what is in it.

    Parameters
        model: the reranker's own; unset: the run's.

    Raises
        ConfigError: the folder does not exist.
        ModelError: it lacks what a model folder has.
    """
    model = model or config.model
    settings = model.model_dump(mode="json", exclude=USED_LATER)
    name = model.name
    if model.source == "local":
        folder = Path(name)
        settings = {
            "source": "local",
            "content": folder_content(folder, config.paths.store / DIGESTS_NAME),
            "num_layers": model.num_layers,
        }
        name = folder.resolve().name
    return StageKey(STAGE, VERSION, settings, {}, name)


def folder_content(folder: Path, memory: Path) -> str:
    """A hash of all files of a local model folder that loading it reads; their names count, its own does not.

    Raises
        ConfigError, ModelError: as ``base_model_key``.
    """
    _refuse_no_model(folder)
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST_NAME)
    read = [path for path in paths if path.suffix in READ_SUFFIXES]
    if not any(path.suffix == ".safetensors" for path in read):
        read += [path for path in paths if path.suffix == OLD_WEIGHTS]
    lines = [f"{path.name}:{digest}\n" for path, digest in zip(read, digests_of(read, memory), strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _refuse_no_model(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"model.name is {folder}, which is not a folder; name the base model's folder")
    refuse_incomplete(folder)


def settings_of(key: StageKey, config: RunConfig) -> BaseModelConfig:
    """What to fetch: the key's settings; where a folder lies is this machine's business.

    Raises
        ModelError: a folder is no longer what its key says.
    """
    if key.settings["source"] != "local":
        return BaseModelConfig(**key.settings)
    for model in (config.model, config.rerank.base):
        if model is not None and base_model_key(config, model).settings == key.settings:
            return model
    raise ModelError(f"the model folder of {key.label} changed while the run read it; run again")


def build_base_model(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Fetch, verify and convert it."""
    from icl_embed.model.base import fetch_base_model

    wanted = settings_of(key, run.config)
    counts = fetch_base_model(wanted, run.config.paths.downloads, out_dir)
    settings_of(key, run.config)  # once more: a folder may change while it is read
    for model in models_of(run.config):
        if base_model_key(run.config, model) == key:
            refuse_unfit_folder(run.config, model, out_dir)
    return counts


def models_of(config: RunConfig) -> list[BaseModelConfig]:
    """The base models of a run: its own, and the reranker's where that is another."""
    return [config.model, *([config.rerank.base] if config.rerank.base else [])]


def refuse_unfit(config: RunConfig) -> None:
    """Refuse a base model that cannot do what the run asks, as soon as its ``config.json`` is at hand.

    That of a local folder is; that of a package or the hub is once it was fetched (``refuse_unfit_folder``).

    Raises
        ModelError: an architecture that is not supported.
        ConfigError: prompts longer than the model looks back.
    """
    for model in models_of(config):
        if model.source == "local":
            _refuse_no_model(Path(model.name))
            refuse_unfit_folder(config, model, Path(model.name))
            continue
        key = base_model_key(config, model)
        folder = Store(config.paths.store).path_of(key.stage, key.fingerprint)
        if (folder / "config.json").is_file():
            refuse_unfit_folder(config, model, folder)


def refuse_unfit_folder(config: RunConfig, model: BaseModelConfig, folder: Path) -> None:
    """As ``refuse_unfit``, for a folder that is at hand."""
    description = read_config(folder)
    refuse_architecture(description, model.name)
    window = sliding_window(description)
    lengths = _lengths(config, model)
    too_long = [f"{name} = {length}" for name, length in lengths if window and length > window]
    if too_long:
        raise ConfigError(
            f"{model.name} only looks back {window} tokens in some layers (sliding_window), but the "
            f"config allows longer prompts: {', '.join(too_long)}. Set these to at most {window}, or choose "
            "a model without a sliding window"
        )


def _lengths(config: RunConfig, model: BaseModelConfig) -> Iterator[tuple[str, int]]:
    """Every budget that bounds a sequence of a base model, by the name of its setting."""
    if model is (config.rerank.base or config.model):
        yield "rerank.max_tokens", config.rerank.max_tokens
    if model is not config.model:
        return
    prompts = {"model": config.model.prompt, "train": config.train.prompt, "evaluate": config.evaluate.prompt}
    for section, prompt in prompts.items():
        if section != "train" or config.train.examples.wanted:
            yield f"{section}.prompt.total_tokens", prompt.total_tokens
        yield f"{section}.prompt.query_tokens", prompt.query_tokens
        yield f"{section}.prompt.passage_tokens", prompt.passage_tokens
