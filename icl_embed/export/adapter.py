"""The adapter alone, in peft's format, naming the base model it belongs to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from icl_embed.errors import ModelError
from icl_embed.model.lora import ADAPTER_FOLDER
from icl_embed.model.settings import EmbedderSettings
from icl_embed.store.files import write_atomically


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
