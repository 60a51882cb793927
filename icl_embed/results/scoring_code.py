"""Which code decides scores: a hash of our source, and the versions of the libraries that compute them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from icl_embed.store.files import sha256_of
from icl_embed.store.manifest import library_versions

PACKAGE = Path(__file__).resolve().parents[1]
SOURCES = ("prompts.py", "examples.py", "model", "evaluate", "benchmark", "selection")
LIBRARIES = ("torch", "transformers", "mteb")


def scoring_code(package: Path = PACKAGE) -> dict[str, str]:
    """Hash of the source that decides scores, and library versions; equal ones give equal scores.

    A changed comment changes the hash too: scoring once more is cheaper than missing a change.
    """
    digest = hashlib.sha256()
    for name in SOURCES:
        path = package / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{file.relative_to(package).as_posix()}:{sha256_of(file)}\n".encode())
    versions = library_versions()
    return {"source": digest.hexdigest()[:16], **{name: versions[name] for name in LIBRARIES}}
