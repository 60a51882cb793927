"""Which weights and which tokenizer: what a compiled task is bound to."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from icl_embed.store.files import files_below, sha256_of
from icl_embed.store.manifest import MANIFEST_NAME

# By name: a compiled task that is saved beside the weights does not make another model of them.
WEIGHT_FILES = (
    "model*.safetensors",
    "adapter_model.safetensors",
    "demonstrations.safetensors",
    "config.json",
)
TOKENIZER_FILES = (
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
DECIDING_SUFFIXES = {".safetensors", ".json", ".txt", ".model", ".jinja"}
UNSAVED = "unsaved-"


@dataclass(frozen=True)
class Fingerprints:
    """Short hashes of the files that decide a prefix's keys and values, and its token ids."""

    model: str
    tokenizer: str

    @classmethod
    def of_folder(cls, folder: Path) -> Fingerprints:
        """Read every byte of the model's files once (about a second per 2 GB)."""
        return cls(_hash(folder, WEIGHT_FILES), _hash(folder, TOKENIZER_FILES))

    @classmethod
    def unsaved(cls) -> Fingerprints:
        """For a model that exists in memory alone: equal to nothing but itself."""
        name = f"{UNSAVED}{secrets.token_hex(8)}"  # in other processes too, where it may be pickled to
        return cls(name, name)

    @property
    def is_saved(self) -> bool:
        """Whether the model can be recognised by another process."""
        return not self.model.startswith(UNSAVED)


def folder_fingerprint(folder: Path) -> str:
    """Short hash of every file below a folder that can decide what its model computes, whoever made it.

    Raises
        StoreError: the folder holds a symbolic link.
    """
    digest = hashlib.sha256()
    for path in files_below(folder):
        if path.suffix in DECIDING_SUFFIXES and path.name != MANIFEST_NAME:
            digest.update(f"{path.relative_to(folder).as_posix()}:{sha256_of(path)}\n".encode())
    return digest.hexdigest()[:16]


def _hash(folder: Path, patterns: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        if path.is_file():
            digest.update(f"{path.name}:{sha256_of(path)}\n".encode())
    return digest.hexdigest()[:16]
