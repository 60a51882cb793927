"""An exported model folder: merged weights or the adapter alone, with everything others need to load it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_embed.errors import ConfigError, ModelError, StoreError
from icl_embed.export.adapter import write_adapter
from icl_embed.export.attention import write_config
from icl_embed.export.prompt_text import PromptText
from icl_embed.export.sentence_transformers_files import write_sentence_transformers_files
from icl_embed.export.task_prompts import TaskPrompt
from icl_embed.export.tokenizer_files import count_differences, write_tokenizer
from icl_embed.model.base import refuse_incomplete
from icl_embed.model.settings import EmbedderSettings, read_settings, write_settings
from icl_embed.prompts import PromptBuilder
from icl_embed.store.files import fsync_path, sync_files


@dataclass(frozen=True)
class Exported:
    """What an export holds.

    Attributes
        settings: how the model is used.
        text: how its prompts are written for other libraries.
        differences: tokens of some awkward texts that other libraries make differently, per task prompt.
    """

    settings: EmbedderSettings
    text: PromptText
    tasks: Mapping[str, TaskPrompt]
    differences: Mapping[str, int]
    dimension: int
    is_adapter: bool


def write_model(
    model_dir: Path,
    out_dir: Path,
    tasks: Mapping[str, TaskPrompt] | None = None,
    *,
    adapter_of: str | None = None,
) -> Exported:
    """Fill ``out_dir`` with a model that sentence-transformers and transformers load as they are.

    Parameters
        model_dir: a model folder with merged safetensors.
        tasks: prompts by name.
        adapter_of: write the adapter alone, on top of this base model (a folder or a hub name).

    Raises
        ModelError: the folder is incomplete, its attention cannot be expressed in a transformers config, or
            its examples are embeddings.
        ConfigError: an instruction leaves no room for a query.
    """
    refuse_incomplete(model_dir)
    settings, tasks = read_settings(model_dir), dict(tasks or {})
    if settings.template.demonstrations:
        raise ModelError(
            "the model reads examples as embeddings (model.template.demonstrations), which other libraries "
            "cannot make; use it with icl-embed, or train one that reads them as text"
        )
    builder = PromptBuilder(_load_tokenizer(model_dir), settings.prompt, settings.template)
    config = _read_config(model_dir)
    if adapter_of is None:
        _copy_weights(model_dir, out_dir)
        write_config(config, settings, out_dir)
    else:
        write_adapter(model_dir, out_dir, base=adapter_of, settings=settings)
    write_settings(out_dir, settings)
    text = write_tokenizer(builder, out_dir)
    dimension = int(config[_width_name(config)])
    write_sentence_transformers_files(out_dir, settings, text, tasks, dimension=dimension)
    differences = count_differences(text, tasks, out_dir)
    return Exported(settings, text, tasks, differences, dimension, adapter_of is not None)


@contextmanager
def published(out_dir: Path) -> Iterator[Path]:
    """A scratch folder that becomes ``out_dir`` when the block ends well, and disappears when it does not.

    Raises
        ConfigError: ``out_dir`` is there already.
        StoreError: the disk refused.
    """
    if out_dir.exists():
        raise ConfigError(f"{out_dir} exists already; name a new folder, or remove it first")
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out_dir.name}.", dir=out_dir.parent) as scratch:
            partial = Path(scratch) / out_dir.name
            partial.mkdir()
            yield partial
            sync_files(partial)
            partial.replace(out_dir)
        fsync_path(out_dir.parent)
    except OSError as error:
        raise StoreError(
            f"cannot write {out_dir}: {error.strerror or error}; nothing was left there"
        ) from error


def _load_tokenizer(model_dir: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model_dir, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load the tokenizer in {model_dir}: {error}") from error


def _copy_weights(model_dir: Path, out_dir: Path) -> None:
    names = sorted(path.name for path in model_dir.glob("model*.safetensors*"))
    if not names:
        raise ModelError(f"{model_dir} has no model.safetensors; only safetensors are exported")
    for name in names:
        shutil.copyfile(model_dir / name, out_dir / name)


def _read_config(model_dir: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((model_dir / "config.json").read_bytes())
    if not isinstance(config.get(_width_name(config)), int):
        raise ModelError(f"{model_dir / 'config.json'} names no hidden_size; is it a text model?")
    return config


def _width_name(config: Mapping[str, Any]) -> str:
    return "hidden_size" if "hidden_size" in config else "n_embd"  # GPT-2's
