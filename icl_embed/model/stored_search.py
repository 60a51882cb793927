"""Millions of vectors: made once, kept on disk in float16, and searched exactly or by FAISS.

FAISS compares a query with the passages of the nearest cells only (IVF), which it holds in memory in float16:
a few hundredths of the work of an exact search, for a few of the best passages missed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from icl_embed.config import ONE_HERE, EngineConfig
from icl_embed.engines.engine import device_of, spread_over
from icl_embed.errors import ConfigError
from icl_embed.model.cached_encoding import CachingEncoder, Encoder
from icl_embed.model.dtype import resolve_device
from icl_embed.model.search import SearchResult, UnitRows, VectorRows, best_passages, blocks_of
from icl_embed.model.vector_cache import FOLDER_NAME, ShardedVectors

logger = logging.getLogger(__name__)

CHUNK_TEXTS = 8192  # of a shard: what a crash can cost
CELLS_PER_ROOT = 2  # times the root of the number of passages
TRAINED_PER_CELL = 40  # passages that say where a cell lies; FAISS warns below 39
TRAIN_ROUNDS = 10
PROBED_CELLS = 64

Find = Callable[[NDArray[np.float32], int], SearchResult]


def embed_to(
    folder: Path, encoder: Encoder, identity: Mapping[str, Any], *, batch_tokens: int = 8192
) -> Callable[[Sequence[str], str | None], UnitRows]:
    """A function from texts, and an instruction or None for passages, to unit vectors below a folder.

    What lies there already is not made again.

    Parameters
        identity: what decides a vector besides its text.
    """
    store = ShardedVectors(folder / FOLDER_NAME, identity, stored_as="float16")
    caching = CachingEncoder(encoder, batch_tokens, store=store, chunk_texts=CHUNK_TEXTS)

    def embed(texts: Sequence[str], instruction: str | None) -> UnitRows:
        if instruction is None:
            return UnitRows(caching.stored_passages(texts))
        return UnitRows(caching.stored_queries(texts, instruction))

    return embed


def search_devices(config: EngineConfig, device: str = "auto") -> tuple[str, ...]:
    """The devices of this machine, whoever runs the model, for products that need none of it."""
    here = config if config.name == "local" else ONE_HERE
    named = spread_over(here, device) or (device_of(here, device),)
    places = dict.fromkeys(str(resolve_device(name)) for name in named)  # each once, whoever shares it
    return tuple(place for place in places if place != "cpu") or ("cpu",)


def search_of(
    way: Literal["exact", "faiss"], faiss_from: int, devices: Sequence[torch.device | str]
) -> Callable[[VectorRows], Find]:
    """A function from passages to their search: exact, or FAISS's from so many passages on.

    Raises
        ConfigError: FAISS is asked for and not installed.
    """
    if way == "faiss":
        _library()  # said now, not after hours of encoding

    def over(passages: VectorRows) -> Find:
        if way == "faiss" and passages.shape[0] >= faiss_from:
            return faiss_index(passages)
        return lambda queries, top_k: best_passages(queries, passages, top_k=top_k, devices=devices)

    return over


def faiss_index(passages: VectorRows, *, probed: int = PROBED_CELLS) -> Find:
    """FAISS's search of passages; equal scores in any order, -1 where the cells hold fewer than asked for.

    Raises
        ConfigError: it is not installed.
        ModelError: a vector is not finite.
    """
    faiss = _library()
    count, dimension = passages.shape
    cells = max(1, min(CELLS_PER_ROOT * isqrt(count), count // TRAINED_PER_CELL))
    index = faiss.index_factory(dimension, f"IVF{cells},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = TRAIN_ROUNDS
    logger.info("FAISS: %d passages in %d cells, of which a query looks into %d", count, cells, probed)
    sample = np.linspace(0, count - 1, min(count, TRAINED_PER_CELL * cells), dtype=np.int64)
    index.train(np.ascontiguousarray(passages[sample], np.float32))
    for _, block in blocks_of(passages):
        index.add(block.numpy())
    index.nprobe = min(probed, cells)

    def find(queries: NDArray[np.float32], top_k: int) -> SearchResult:
        scores, indices = index.search(np.ascontiguousarray(queries, np.float32), min(top_k, count))
        return SearchResult(indices, scores)

    return find


def _library() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "search = faiss needs the package faiss-cpu: pip install 'icl-embed[mine]', or search exactly"
        ) from error
    return faiss
