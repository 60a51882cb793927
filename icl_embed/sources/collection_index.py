"""What a collection holds, split by split, read from afar: names, sizes, rows, and what its first rows say.

A commit never changes, so what was read of one is kept in the downloads folder; planning then needs no
network. Of a Parquet shard only the footer is fetched, and of the first one the head of two columns.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

from icl_embed.errors import ConfigError, SourceError
from icl_embed.progress import tell
from icl_embed.sources.archive import matches
from icl_embed.sources.card_source import HubSource, UnpinnedSource
from icl_embed.sources.collection import (
    USUAL_TYPE,
    Collection,
    CollectionCard,
    Shard,
    Split,
    by_split,
)
from icl_embed.sources.fetched import Fetched
from icl_embed.sources.hub import HubDataset, HubFile
from icl_embed.sources.local import fetch_local

logger = logging.getLogger(__name__)

FORMAT = 1  # of the kept index
READERS = 8  # shards whose footers are read at a time
SPLITS = TypeAdapter(dict[str, Split])
Opened = Callable[[str], AbstractContextManager[IO[bytes]]]


def cards_of(collection: Collection, downloads: Path) -> dict[str, CollectionCard]:
    """The data sets of a collection by name, each with its shards, sizes and rows.

    Raises
        ConfigError: the card names no commit, or does not fit what is there.
        SourceError: it cannot be read.
    """
    return collection.cards(splits_of(collection, downloads))


def splits_of(collection: Collection, downloads: Path) -> dict[str, Split]:
    """Split → what is known of it, from the downloads folder or, once per commit, from the hub.

    Raises
        ConfigError, SourceError: as ``cards_of``.
    """
    source = collection.source
    if isinstance(source, UnpinnedSource):
        raise ConfigError(
            f"the card {collection.name} names no commit of {source.repository}: none was verified when "
            "it was written. Choose one at "
            f"https://huggingface.co/datasets/{source.repository}/commits/main, copy the card into a "
            'folder of your own with source.kind = "hub" and revision = "<40 hex digits>", and set '
            "paths.catalog to it"
        )
    if not isinstance(source, HubSource):
        local = fetch_local(collection.local_path, source.files)
        paths = {file.name: file for file in local}
        listed = [HubFile(file.name, file.num_bytes, "") for file in local]
        return _read(collection.name, listed, lambda name: paths[name].open_raw())
    pin = f"{FORMAT}\0{source.repository}\0{source.revision}\0{source.files}"
    digest = hashlib.sha256(pin.encode()).hexdigest()[:16]
    path = downloads / "collections" / f"{source.repository.replace('/', '--')}-{digest}.json"
    kept = _kept(path)
    if kept is None:
        where = f"{source.repository} at {source.revision}"
        logger.info("reading what %s holds", where)
        hub = HubDataset(source.repository, source.revision, downloads)
        listed = [file for file in hub.files() if any(matches(file.name, glob) for glob in source.files)]
        kept = _read(where, listed, hub.opened)
        _keep(path, kept)
    return kept


def _kept(path: Path) -> dict[str, Split] | None:
    try:
        return SPLITS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        logger.warning("%s cannot be read and is made anew: %s", path, str(error).splitlines()[0])
        return None


def _keep(path: Path, splits: dict[str, Split]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        partial.write_bytes(SPLITS.dump_json(splits, indent=1))
        partial.replace(path)
    except OSError as error:
        raise SourceError(f"cannot write {path}: {error.strerror or error}; set paths.downloads") from error


def _read(where: str, listed: Sequence[HubFile], opened: Opened) -> dict[str, Split]:
    files = {file.name: file for file in listed}
    names = by_split(files, where)
    shards: dict[str, Shard] = {}
    wanted = [name for part in names.values() for name in part]
    with ThreadPoolExecutor(READERS) as readers:
        for shard in readers.map(lambda name: _shard(files[name], opened), wanted):
            shards[shard.name] = shard
            tell(f"reading what {where} holds", len(shards), len(wanted))
        heads = readers.map(lambda part: _head(part[0], opened), names.values())
        return {
            split: Split(shards=tuple(shards[name] for name in part), type=row_type, prompt=prompt)
            for (split, part), (row_type, prompt) in zip(names.items(), heads, strict=True)
        }


def _shard(file: HubFile, opened: Opened) -> Shard:
    rows = None
    if file.name.endswith(".parquet"):
        with opened(file.name) as handle:
            rows = opened_parquet(handle, file.name).metadata.num_rows
    return Shard(name=file.name, num_bytes=file.num_bytes, sha256=file.sha256, num_rows=rows)


def opened_parquet(handle: IO[bytes], name: str) -> Any:
    """A Parquet file, of which the footer was read.

    Raises
        SourceError: it has none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(handle)
    except pa.ArrowException as error:
        raise SourceError(f"{name} is no whole Parquet file: {error}") from error


def _head(name: str, opened: Opened) -> tuple[str, str]:
    """Type and prompt of the first row; of an empty file the usual type, and no prompt."""
    row: dict[str, Any] = {}
    with opened(name) as handle:
        if name.endswith(".parquet"):
            parquet = opened_parquet(handle, name)
            columns = [column for column in ("type", "prompt") if column in parquet.schema_arrow.names]
            if parquet.metadata.num_rows and columns:
                batch = next(parquet.iter_batches(1, row_groups=[0], columns=columns))
                row = batch.slice(0, 1).to_pylist()[0]
        else:
            row = _first_line(Fetched(name, data=handle.read(LINE_BYTES)))
    row_type, prompt = row.get("type") or USUAL_TYPE, row.get("prompt") or ""
    if not isinstance(row_type, str) or not isinstance(prompt, str):
        raise SourceError(f"{name}, record 1: type and prompt must be texts, found {row_type!r}, {prompt!r}")
    return row_type, prompt.strip()


LINE_BYTES = 4 << 20  # of a file of lines are looked at; a first line is far shorter


def _first_line(beginning: Fetched) -> dict[str, Any]:
    import orjson

    with beginning.open() as handle:
        line = handle.readline()
    try:
        row = orjson.loads(line) if line.strip() else {}
    except orjson.JSONDecodeError as error:
        raise SourceError(f"{beginning.name}, record 1: is not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise SourceError(f"{beginning.name}, record 1: expected an object, found {type(row).__name__}")
    return row
