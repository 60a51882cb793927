"""icl-embed: few-shot text embedders from causal language models.

The library works without any workflow engine: every stage of the pipeline is a plain function here,
and the packages ``tasks`` and ``flows`` only schedule them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icl_embed.examples import Example
    from icl_embed.model.compiled import CompiledTask
    from icl_embed.model.embedder import Embedder
    from icl_embed.model.encoder_pool import EncoderPool
    from icl_embed.rerank.reranker import Reranker

__version__ = "0.1.0"
__all__ = ["CompiledTask", "Embedder", "EncoderPool", "Example", "Reranker"]

_HOMES = {
    "CompiledTask": "icl_embed.model.compiled",
    "Embedder": "icl_embed.model.embedder",
    "EncoderPool": "icl_embed.model.encoder_pool",
    "Example": "icl_embed.examples",
    "Reranker": "icl_embed.rerank.reranker",
}


def __getattr__(name: str) -> Any:
    """Import on first use: torch takes seconds, and most commands do not need it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
