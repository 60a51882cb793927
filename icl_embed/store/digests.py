"""Digests of large files, remembered for as long as the file is untouched.

A plan asks for them every time, and fourteen gigabytes take minutes. Those of files outside the store are
kept in a file; those of artefacts once per process, since proving them whole is what they are read for. A
file is known by where it lies on the disk, its size, and both of its times: the time of the last *change*
cannot be set by hand, so copying another file over it, with its old date, is seen all the same.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from icl_embed.errors import StoreError
from icl_embed.store.files import sha256_of, write_atomically

SETTLED_SECONDS = 2.0  # a younger file may change again without its times telling


def digest_once(path: Path) -> str:
    """The sha256 of a file, computed once per process while nobody touches the file."""
    status = path.stat()
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if state in _SEEN:
        return _SEEN[state]
    is_settled = time.time() - status.st_ctime > SETTLED_SECONDS
    digest = sha256_of(path)
    if is_settled:
        _SEEN[state] = digest
    return digest


_SEEN: dict[tuple[int, ...], str] = {}


def digests_of(paths: Sequence[Path], memory: Path) -> list[str]:
    """The sha256 of every file.

    Parameters
        memory: a file that keeps them; where it cannot be written, they are computed every time.
    """
    known = _read(memory)
    found, is_new = [], False
    for path in paths:
        status = path.stat()
        place = f"{status.st_dev}:{status.st_ino}"
        state = f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
        kept_state, kept_digest = known.get(place, ("", ""))
        if kept_state != state:
            kept_digest = sha256_of(path)
            if time.time() - status.st_ctime > SETTLED_SECONDS:
                known[place] = (state, kept_digest)
                is_new = True
        found.append(kept_digest)
    if is_new:
        with contextlib.suppress(StoreError):
            write_atomically(memory, json.dumps(known, indent=0).encode())
    return found


def _read(memory: Path) -> dict[str, tuple[str, str]]:
    """What was remembered; nothing if that is damaged."""
    try:
        return {
            str(place): (str(state), str(digest))
            for place, (state, digest) in json.loads(memory.read_bytes()).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
