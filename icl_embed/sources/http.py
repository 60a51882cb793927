"""The ``http`` source: one pinned file from a web server."""

from __future__ import annotations

from pathlib import Path

import requests

from icl_embed.sources.archive import read_members
from icl_embed.sources.card_source import HttpSource
from icl_embed.sources.downloads import cached_file
from icl_embed.sources.fetched import Fetched, Progress
from icl_embed.sources.transfer import Patience, Transfer


def fetch_http(
    source: HttpSource, downloads: Path, *, progress: Progress | None = None, patience: Patience | None = None
) -> list[Fetched]:
    """The file, or the named members of the archive that it is.

    Raises
        SourceError: it cannot be fetched, or is not what the card promised.
    """
    transfer = Transfer(source.url, source.name, source.max_bytes, patience=patience or Patience())

    def download(partial: Path) -> None:
        with requests.Session() as session:
            transfer.into(partial, session, progress)

    path = cached_file(downloads, source.sha256, source.name, download)
    return read_members(path, source.members) if source.members else [Fetched(source.name, path=path)]
