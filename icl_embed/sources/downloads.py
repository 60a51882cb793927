"""The downloads folder: ``<sha256>/<file name>``, verified whenever it is used, safe to delete.

A file appears under its final name only when its hash is right. A file that has rotted is moved to
``quarantine/`` and fetched again. One process (or thread) fetches a file; the others wait for it.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from icl_embed.errors import SourceError
from icl_embed.store.files import fsync_path, sha256_of

logger = logging.getLogger(__name__)

Download = Callable[[Path], None]


def cached_file(downloads: Path, sha256: str, filename: str, download: Download) -> Path:
    """The path of a verified file, fetched with ``download(partial_path)`` if it is not there yet.

    ``download`` may find the bytes of an interrupted attempt at the path, and may continue them.

    Raises
        SourceError: what arrived has another sha256 (it is kept in quarantine), or the disk refuses.
    """
    folder = downloads / sha256
    path, partial = folder / filename, folder / f"{filename}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / ".lock"):
            if path.is_file():
                if sha256_of(path) == sha256:
                    return path
                logger.warning("%s has changed on the disk; it goes to quarantine and is fetched again", path)
                _quarantine(downloads, path)
            continued = partial.is_file() and partial.stat().st_size > 0
            download(partial)
            found = sha256_of(partial)
            if found != sha256 and continued:  # the interrupted attempt may be at fault: once more, from zero
                partial.unlink()
                download(partial)
                found = sha256_of(partial)
            if found != sha256:
                kept = _quarantine(downloads, partial)
                raise SourceError(
                    f"{filename} has sha256 {found} ({kept.stat().st_size} bytes), expected {sha256}; "
                    f"kept as {kept} for a look. If the publisher changed it on purpose, pin the new hash"
                )
            fsync_path(partial)
            partial.replace(path)
            fsync_path(folder)
            return path
    except OSError as error:
        raise SourceError(
            f"cannot keep {filename} in {downloads}: {error.strerror or error}; free space there, or set "
            "paths.downloads to another folder"
        ) from error


def _quarantine(downloads: Path, path: Path) -> Path:
    folder = downloads / "quarantine"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{sha256_of(path)[:16]}-{path.name.removesuffix('.part')}"
    path.replace(target)
    return target


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Wait for, then hold the lock; the kernel drops it when its holder dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
