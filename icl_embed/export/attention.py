"""The attention of an exported model, as far as a plain transformers config can say it.

Since 5.2, ``is_causal: false`` in ``config.json`` gives decoders a bidirectional mask (their masks come from
``transformers.masking_utils.create_causal_mask``, which asks the config). What it cannot say is refused.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl_embed.errors import ModelError
from icl_embed.model.settings import EmbedderSettings
from icl_embed.store.files import write_atomically


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
