"""Bytes that survive a crash: hashing, fsync, atomic replacement."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from icl_embed.errors import StoreError

CHUNK_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as 64 hex digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fsync_path(path: Path) -> None:
    """Force a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refusal(error: OSError, path: Path | None = None, *, kept: str = "") -> str:
    """Why the file system refused, what was kept, and what would help.

    Parameters
        path: what was to be written, where the error does not say.
        kept: what is still as it was.
    """
    reason = error.strerror or str(error)
    where = error.filename or path
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        cure = "free space and run again"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        cure = "make the folder writable for this user, or name another one (paths.store or --store)"
    else:
        cure = "mend the folder, or name another one (paths.store or --store), and run again"
    place = f" ({where})" if where else ""
    return "; ".join(part for part in (reason, kept, cure + place) if part)


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write; a reader of ``path`` sees the old content or the new, never a part.

    Raises
        StoreError: the disk refused (full, read-only); the old content is still there.
    """
    temporary = path.with_name(f"{partial_of(path)}{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
        fsync_path(path.parent)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {refusal(error, kept='nothing was changed')}") from error
    finally:
        with contextlib.suppress(OSError):  # what refused the file may refuse this too
            temporary.unlink(missing_ok=True)


def partial_of(path: Path) -> str:
    """How the name of a file begins that is on its way to ``path``; its writer's number follows."""
    return f".{path.name}.partial-"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file; otherwise as ``written_atomically``."""
    with written_atomically(path) as handle:
        handle.write(data)


def sync_files(folder: Path) -> None:
    """Force every file below a folder to the disk, readable by whom the folder is.

    Libraries that write a temporary file first (safetensors does) leave it readable by its owner alone,
    whatever the umask says; the folder was made under the umask.

    Raises
        StoreError: the folder holds a symbolic link.
    """
    for path in files_below(folder):
        path.chmod(folder.stat().st_mode & 0o666)
        fsync_path(path)


def why_disk_refuses(folder: Path) -> str:
    """Why a megabyte cannot be written below a folder (full, over quota, read-only); empty when it can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as handle:
            handle.write(bytes(CHUNK_BYTES))
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return ""


def files_below(folder: Path) -> Iterator[Path]:
    """Every regular file below a folder, in sorted order. Links are refused.

    Raises
        StoreError: the folder holds a symbolic link.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise StoreError(f"{path} is a link; artefacts hold plain files only")
        if path.is_file():
            yield path


def inside(root: Path, name: str) -> Path:
    """The path of ``name`` below ``root``, refusing every way out (absolute, ``..``, NUL, ``~``).

    Raises
        StoreError: the name leaves the root.
    """
    if not name or "\0" in name or name.startswith(("/", "~")) or ".." in Path(name).parts:
        raise StoreError(f"the file name {name!r} would leave {root}")
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise StoreError(f"the file name {name!r} would leave {root}")
    return path
