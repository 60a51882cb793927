"""The ``local`` source: a file or a folder on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from icl_embed.errors import SourceError
from icl_embed.sources.archive import matches
from icl_embed.sources.fetched import Fetched
from icl_embed.store.files import sha256_of


def fetch_local(path: Path, patterns: Sequence[str], *, root: Path | None = None) -> list[Fetched]:
    """The file, or the matching files below the folder, in the order of their names.

    ``root`` is how far links may lead; the folder itself unless given.

    Raises
        SourceError: missing, nothing matches, or a link leads out of the folder.
    """
    if path.is_file():
        return [Fetched(path.name, path=path)]
    if not path.is_dir():
        raise SourceError(
            f"the local source {path} does not exist; a relative path starts at the card's folder"
        )
    found = []
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if not file.is_file() or not any(matches(name, pattern) for pattern in patterns):
            continue
        if not file.resolve().is_relative_to((root or path).resolve()):
            raise SourceError(f"{file} is a link that leads out of {root or path}; copy the file instead")
        found.append(Fetched(name, path=file))
    if not found:
        raise SourceError(f"no file below {path} fits {', '.join(patterns)}")
    return found


def content_digest(path: Path, patterns: Sequence[str]) -> str:
    """One sha256 over the names and contents of the files; what a local source is known by.

    Raises
        SourceError: as ``fetch_local``.
    """
    digest = hashlib.sha256()
    for item in fetch_local(path, patterns):
        if item.path is not None:
            digest.update(f"{item.name}\0{sha256_of(item.path)}\n".encode())
    return digest.hexdigest()
