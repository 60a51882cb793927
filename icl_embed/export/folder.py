"""An exported model folder: merged weights or the adapter alone, with everything other libraries need.

Since 5.2, ``is_causal: false`` in ``config.json`` gives decoders a bidirectional mask (their masks come from
``transformers.masking_utils.create_causal_mask``, which asks the config). What it cannot say is refused.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_embed.errors import ConfigError, ModelError, StoreError
from icl_embed.export.prompt_text import PromptText
from icl_embed.export.sentence_transformers_files import write_sentence_transformers_files
from icl_embed.export.task_prompts import TaskPrompt
from icl_embed.export.tokenizer_files import count_differences, write_tokenizer
from icl_embed.model.base import refuse_incomplete
from icl_embed.model.lora import ADAPTER_FOLDER
from icl_embed.model.settings import EmbedderSettings, read_settings, write_settings
from icl_embed.prompts import PromptBuilder
from icl_embed.store.files import fsync_path, sync_files, write_atomically


def write_adapter(model_dir: Path, out_dir: Path, *, base: str, settings: EmbedderSettings) -> None:
    """Copy the adapter that training kept beside the merged weights.

    Parameters
        base: what peft and sentence-transformers load below the adapter: a folder or a hub name.

    Raises
        ModelError: training kept no adapter, or an adapter cannot hold this model.
    """
    source = model_dir / ADAPTER_FOLDER
    if not (source / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"{model_dir} holds no adapter: it was tuned in full, or trained before adapters were kept. "
            "Export the merged weights, or train again"
        )
    if settings.attention == "bidirectional":
        raise ModelError(
            "the base model's config says causal attention, and an adapter cannot change that; "
            "export the merged weights"
        )
    if settings.template.special_tokens:
        raise ModelError("an adapter has no rows for the tokens that were added; export the merged weights")
    config = json.loads((source / "adapter_config.json").read_bytes()) | {"base_model_name_or_path": base}
    text = json.dumps(config, indent=1, sort_keys=True)
    write_atomically(out_dir / "adapter_config.json", text.encode())
    shutil.copyfile(source / "adapter_model.safetensors", out_dir / "adapter_model.safetensors")


def write_config(config: Mapping[str, Any], settings: EmbedderSettings, out_dir: Path) -> None:
    """Write ``config.json`` with the attention the model was trained with.

    Raises
        ModelError: bidirectional attention that transformers would not honour for this model.
    """
    written = {name: value for name, value in config.items() if name != "_name_or_path"}
    if settings.attention == "bidirectional":
        _refuse_inexpressible(config, settings)
        written["is_causal"] = False
    write_atomically(out_dir / "config.json", json.dumps(written, indent=1, sort_keys=True).encode())


def _refuse_inexpressible(config: Mapping[str, Any], settings: EmbedderSettings) -> None:
    from transformers import MODEL_MAPPING, AutoConfig

    kind = str(config.get("model_type"))
    module = sys.modules[MODEL_MAPPING[type(AutoConfig.for_model(kind))].__module__]
    if not hasattr(module, "create_causal_mask"):
        raise ModelError(
            f"the transformers model {kind!r} ignores is_causal, so its bidirectional attention cannot be "
            "exported; use the model with icl-embed, or train with model.attention = 'causal'"
        )
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if isinstance(window, int) and window < settings.prompt.total_tokens:
        raise ModelError(
            f"transformers would keep the sliding window of {window} tokens, but this model was trained to "
            f"see all {settings.prompt.total_tokens} tokens of its prompt; export with a lower total_tokens"
        )


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
