"""The manifest: what an artefact holds, what made it, and the hashes that prove it whole."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from icl_embed.errors import StoreError
from icl_embed.store.digests import digest_once
from icl_embed.store.files import files_below, inside, sha256_of
from icl_embed.store.key import StageKey

MANIFEST_NAME = "manifest.json"
LIBRARIES = ("icl-embed", "torch", "transformers", "peft", "deepspeed", "duckdb", "mteb", "prefect", "numpy")


@dataclass(frozen=True)
class FileRecord:
    """One file of an artefact."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``."""

    stage: str
    fingerprint: str
    label: str
    key: dict[str, Any]
    files: dict[str, FileRecord]
    counts: dict[str, Any]
    seconds: float
    created: str
    libraries: dict[str, str]
    git_commit: str
    python: str

    @property
    def num_bytes(self) -> int:
        """Size of all files together."""
        return sum(record.bytes for record in self.files.values())

    def to_json(self) -> bytes:
        """The manifest as indented JSON."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False).encode()


def describe(key: StageKey, folder: Path, counts: Mapping[str, Any], seconds: float) -> Manifest:
    """Hash every file below ``folder`` and record what made it."""
    files = {
        path.relative_to(folder).as_posix(): FileRecord(path.stat().st_size, sha256_of(path))
        for path in files_below(folder)
    }
    return Manifest(
        stage=key.stage,
        fingerprint=key.fingerprint,
        label=key.label,
        key=key.parts(),
        files=files,
        counts=dict(counts),
        seconds=round(seconds, 3),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        libraries=library_versions(),
        git_commit=git_commit(),
        python=platform.python_version(),
    )


def read_manifest(folder: Path) -> Manifest:
    """Read a manifest.

    Raises
        StoreError: missing, or not a manifest.
    """
    path = folder / MANIFEST_NAME
    try:
        fields = json.loads(path.read_bytes())
        fields["files"] = {name: FileRecord(**record) for name, record in fields["files"].items()}
        return Manifest(**fields)
    except FileNotFoundError as error:
        raise StoreError(f"no artefact at {folder}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{path} is damaged: {error}") from error


def find_damage(folder: Path, manifest: Manifest) -> str:
    """Compare a folder with its manifest; an empty string means every byte is as it was written."""
    for name, record in manifest.files.items():
        path = inside(folder, name)
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != record.bytes:
            return f"{name} has {path.stat().st_size} bytes, expected {record.bytes}"
        if digest_once(path) != record.sha256:
            return f"{name} has changed (sha256 differs)"
    return ""


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that can change a result."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions


def processor() -> str:
    """The processor's name, as the kernel gives it where it does."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def git_commit() -> str:
    """The commit of this checkout, ``+changes`` when the tree is dirty, empty outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(root: Path, *arguments: str) -> str:
    argv = ["git", "-C", str(root), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
