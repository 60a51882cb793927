"""A stand-in of the hub on the loopback interface: repositories of data sets at one commit, byte for byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.icl_embed.sources.web import Answer, Site, running_site

REVISION = "b1dc23df7dfe3af6e811dc2c4e90d907984b8c6f"
PUBLISHED = pa.schema(
    {
        "query": pa.string(),
        "pos": pa.list_(pa.string()),
        "neg": pa.list_(pa.string()),
        "category": pa.string(),
        "type": pa.string(),
        "prompt": pa.string(),
        "pos_scores": pa.list_(pa.float32()),
        "neg_scores": pa.list_(pa.float32()),
    }
)


def parquet(rows: Iterable[Mapping[str, Any]], schema: pa.Schema = PUBLISHED) -> bytes:
    """A shard as `push_to_hub` writes it; what a row does not say is null."""
    buffer = BytesIO()
    pq.write_table(pa.Table.from_pylist([*rows], schema=schema), buffer, row_group_size=100)
    return buffer.getvalue()


def shards(split: str, *parts: Iterable[Mapping[str, Any]]) -> dict[str, bytes]:
    """The shards of a split by their published names."""
    return {
        f"data/{split}-{number:05d}-of-{len(parts):05d}.parquet": parquet(rows)
        for number, rows in enumerate(parts)
    }


def publish(site: Site, repository: str, files: Mapping[str, bytes], revision: str = REVISION) -> None:
    """Serve a repository as the hub does: what it is, its tree, and its files, in ranges where asked."""
    api = f"/api/datasets/{repository}"
    site.on(f"{api}/revision/{revision}", _json({"id": repository, "sha": revision, "siblings": []}))
    tree = [
        {
            "type": "file",
            "path": name,
            "size": len(data),
            "oid": hashlib.sha1(data, usedforsecurity=False).hexdigest(),
            **({"lfs": _lfs(data)} if name.endswith(".parquet") else {}),
        }
        for name, data in files.items()
    ]
    for expand in ("false", "False"):
        for recursive in ("true", "True"):
            site.on(f"{api}/tree/{revision}?recursive={recursive}&expand={expand}", _json(tree))
    for name, data in files.items():
        site.on(f"/datasets/{repository}/resolve/{revision}/{name}", part_of(data, revision))


def _lfs(data: bytes) -> dict[str, Any]:
    return {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}


def _json(value: object) -> Answer:
    data = json.dumps(value).encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def part_of(data: bytes, revision: str = REVISION, *, promised: bytes | None = None) -> Answer:
    """A file, whole or in the range asked for; ``promised`` is what the headers speak of."""
    digest = hashlib.sha256(promised or data).hexdigest()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range", "")
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = int(first or 0), min(int(last or len(data) - 1) + 1, len(data))
        part = data[start:stop]
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        handler.send_header("X-Repo-Commit", revision)
        handler.send_header("ETag", f'"{digest}"')
        handler.send_header("Content-Length", str(len(part)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(part)

    return answer


@contextmanager
def running_hub(patch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The stand-in, which the hub's client of this process takes for the hub."""
    from huggingface_hub import constants

    with running_site() as site:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "ENDPOINT", site.url)
        template = site.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield site
