"""The shards of one data set of a collection: is there room for them, then each, fetched and checked."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from icl_embed.errors import SourceError
from icl_embed.progress import tell
from icl_embed.sources.card_source import HubSource
from icl_embed.sources.collection import CollectionCard, Shard
from icl_embed.sources.collection_index import opened_parquet
from icl_embed.sources.fetched import Fetched, Progress
from icl_embed.sources.hub import HubDataset
from icl_embed.sources.local import fetch_local
from icl_embed.store.files import sha256_of

logger = logging.getLogger(__name__)


def shards_of(card: CollectionCard, downloads: Path, progress: Progress | None = None) -> Iterator[Fetched]:
    """The shards of one data set in order, each fetched and verified when it is asked for.

    Those that are there already are not fetched again, so that a run that was killed goes on where it was.

    Raises
        SourceError: a shard cannot be had, or is not what the hub says it is.
    """
    if not isinstance(card.source, HubSource):
        yield from sorted(fetch_local(card.local_path, card.source.files), key=lambda file: file.name)
        return
    hub = HubDataset(card.source.repository, card.source.revision, downloads)
    for done, shard in enumerate(card.shards):
        tell(f"fetching {card.name}", done, len(card.shards))
        path = _verified(hub, shard)
        if progress:
            progress(shard.name, shard.num_bytes, shard.num_bytes)
        yield Fetched(shard.name, path=path)
    tell(f"fetching {card.name}", len(card.shards), len(card.shards))


def _verified(hub: HubDataset, shard: Shard) -> Path:
    """A shard that is what the index says; one that is not is fetched once more."""
    for is_last in (False, True):
        path = hub.fetch(shard.name)
        fault = _fault(path, shard)
        if not fault:
            return path
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        if is_last:
            raise SourceError(
                f"{shard.name} of {hub.repository} is not what the hub says: {fault}. It was thrown away, "
                "twice; the next run fetches it again, and goes on with the shards that are there"
            )
        logger.warning("%s: %s; it is fetched once more", shard.name, fault)
    raise AssertionError("unreachable")


def _fault(path: Path, shard: Shard) -> str:
    """What is wrong with a shard in words; empty if nothing is."""
    found = path.stat().st_size
    if found != shard.num_bytes:
        return f"{found} bytes, expected {shard.num_bytes}"
    if shard.sha256 and sha256_of(path) != shard.sha256:
        return f"its sha256 is not {shard.sha256}"
    if shard.name.endswith(".parquet"):
        with path.open("rb") as handle:
            rows = opened_parquet(handle, shard.name).metadata.num_rows
        if rows != shard.num_rows:
            return f"{rows} rows, expected {shard.num_rows}"
    return ""


def refuse_full_disk(
    card: CollectionCard, downloads: Path, output: Path | None = None, max_rows: int | None = None
) -> None:
    """See that there is room for the missing shards and, in ``output``, for the rows made of them.

    Raises
        SourceError: there is not.
    """
    missing = 0  # bytes
    if isinstance(card.source, HubSource):
        hub = HubDataset(card.source.repository, card.source.revision, downloads)
        missing = sum(shard.num_bytes for shard in card.shards if hub.cached(shard.name) is None)
    needs: dict[int, tuple[int, Path, list[str]]] = {}
    rows = card.num_bytes  # a row takes about as much as it takes in its shard
    if max_rows and card.num_rows and card.num_rows > max_rows:
        rows = rows * max_rows // card.num_rows
    wanted = [(downloads, missing, "shards"), *([(output, rows, "rows")] if output else [])]
    for folder, num_bytes, what in wanted:
        place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        device = place.stat().st_dev
        total, _, parts = needs.get(device, (0, place, []))
        needs[device] = (total + num_bytes, place, [*parts, f"{_size(num_bytes)} of {what} in {folder}"])
    for total, place, parts in needs.values():
        free = shutil.disk_usage(place).free
        if total > free:
            raise SourceError(
                f"{card.name} needs about {' and '.join(parts)}, and {_size(free)} are free there; "
                "free space, set paths.downloads or paths.store to another disk, or take fewer shards "
                "(max_shards in the collection's card). Nothing was fetched"
            )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
