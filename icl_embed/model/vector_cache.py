"""Vectors on disk, in shards: what an interrupted evaluation finds again, and all its settings share.

``<root>/<shelf>/`` holds the vectors of one role of one model. The shelf's name is a hash of everything that
decides a vector besides the text (model, number format, budgets, and for queries the instruction and the
examples), written out in ``about.json``; so another model or another example can never be served. A shard is
a safetensors file (``vectors`` [N, D] and ``digests`` [N, 16] of the texts) whose name is the hash of its
bytes: it is published by one rename, and one that was cut off or changed is not read. Vectors are kept as
they were made (float32), or in half the room (float16) where millions are searched.

The folder is a cache: deleting any of it costs time, never a result.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from icl_embed.model.cached_encoding import DIGEST_BYTES, Role, Vectors
from icl_embed.store.files import sha256_of, write_atomically
from icl_embed.store.key import canonical_json

logger = logging.getLogger(__name__)

VERSION = 1  # raise it when the same model, prompt and text give another vector
FOLDER_NAME = "vectors"  # below the store's root
ABOUT_NAME = "about.json"
HASH_LENGTH = 32
DTYPES = {"F32": np.float32, "F16": np.float16, "U8": np.uint8}
HEADER_BYTES = 8  # safetensors: the length of its JSON header, little endian


@dataclass(frozen=True)
class ShardedVectors:
    """The vectors of one model under one set of budgets. A ``VectorStore``.

    Attributes
        root: folder of all shelves, of all models.
        identity: JSON-able; whatever decides a vector besides role and text.
        budgets: JSON-able, per first word of a role: the lengths that its texts are cut to.
        stored_as: the number format on disk.
    """

    root: Path
    identity: Mapping[str, Any]
    budgets: Mapping[str, Any] = field(default_factory=dict)
    stored_as: Literal["float32", "float16"] = "float32"

    def shelf(self, role: Role) -> ShardedShelf:
        """The folder of a role."""
        about = {"version": VERSION, "model": dict(self.identity), **_describe(role)}
        about["budgets"] = self.budgets.get(about["role"])
        if self.stored_as != "float32":
            about["stored_as"] = self.stored_as
        name = hashlib.sha256(canonical_json(about).encode()).hexdigest()[:HASH_LENGTH]
        return ShardedShelf(self.root / name, about, np.dtype(self.stored_as))


@dataclass(frozen=True)
class ShardedShelf:
    """The vectors of one role."""

    folder: Path
    about: Mapping[str, Any]
    stored_as: np.dtype[Any]

    def blocks(self) -> Iterator[tuple[list[bytes], Vectors]]:
        """Every whole shard, memory-mapped; a damaged one is skipped with a warning."""
        if self.folder.is_dir():
            self.folder.touch()  # the eviction takes what was used longest ago
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                yield _read_shard(path)
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("%s is damaged (%s); its texts are encoded again", path, error)

    def add(self, digests: Sequence[bytes], vectors: Vectors) -> Vectors:
        """Publish a shard; returns its vectors, memory-mapped.

        Raises
            StoreError: the disk refused.
        """
        from safetensors.numpy import save

        if not (self.folder / ABOUT_NAME).exists():
            text = json.dumps(self.about, indent=1, ensure_ascii=False)
            write_atomically(self.folder / ABOUT_NAME, text.encode("utf-8", "replace"))
        names = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), DIGEST_BYTES)
        data = save({"digests": names, "vectors": np.ascontiguousarray(vectors, self.stored_as)})
        path = self.folder / f"{hashlib.sha256(data).hexdigest()[:HASH_LENGTH]}.safetensors"
        write_atomically(path, data)
        kept: Vectors = _mapped(path)["vectors"]
        return kept


@dataclass(frozen=True)
class CacheSize:
    """What a cache holds."""

    shelves: int
    bytes: int


def measure_cache(root: Path) -> CacheSize:
    """How much a cache holds."""
    shelves = _shelves(root)
    return CacheSize(len(shelves), sum(map(_size, shelves)))


def shrink_cache(root: Path, max_bytes: int) -> int:
    """Delete the shelves that were used longest ago until ``max_bytes`` are left; returns the bytes freed.

    A process that reads a deleted shelf keeps what it has mapped; one that writes makes the folder again.
    """
    freed, total = 0, measure_cache(root).bytes
    for folder in sorted(_shelves(root), key=lambda folder: folder.stat().st_mtime_ns):
        if total - freed <= max_bytes:
            break
        size = _size(folder)
        shutil.rmtree(folder, ignore_errors=True)
        freed += size
    return freed


def _describe(role: Role) -> dict[str, Any]:
    if role[0] == "passage":
        return {"role": "passage"}
    _, instruction, examples = role
    shown = [[example.query, example.response] for example in examples]
    return {"role": "query", "instruction": instruction, "examples": shown}


def _read_shard(path: Path) -> tuple[list[bytes], Vectors]:
    """Digests and memory-mapped vectors.

    Raises
        ValueError: the bytes are not those that were written.
    """
    if not sha256_of(path).startswith(path.stem):
        raise ValueError("its hash is not its name")
    parts = _mapped(path)
    return [row.tobytes() for row in parts["digests"]], parts["vectors"]


def _mapped(path: Path) -> dict[str, Any]:
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(HEADER_BYTES), "little")
        header = json.loads(handle.read(length))
    return {
        name: np.memmap(
            path,
            dtype=DTYPES[header[name]["dtype"]],
            mode="r",
            offset=HEADER_BYTES + length + header[name]["data_offsets"][0],
            shape=tuple(header[name]["shape"]),
        )
        for name in ("digests", "vectors")
    }


def _shelves(root: Path) -> list[Path]:
    return [folder for folder in root.glob("*") if folder.is_dir() and len(folder.name) == HASH_LENGTH]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
