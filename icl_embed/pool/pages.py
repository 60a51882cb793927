"""Tables read page by page, and what is computed from pages by several threads.

A query's result that is read only in part would block its connection, so a page is a query of its own, over a
range of numbers that lie together in the table.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa

from icl_embed.pool.database import Connection, fetch_count, quote_identifier
from icl_embed.texts import compared_column

PAGE_TEXTS = 8_192
PAGED = ("numbered_texts", "evaluated_texts", "unit_texts", "suspects")

Progress = Callable[[str, int, int], None]  # (what is being done, how many are done, of how many)
Given = TypeVar("Given")
Found = TypeVar("Found")


def read_pages(
    connection: Connection,
    table: str,
    columns: str,
    what: str,
    progress: Progress | None,
    where: str = "TRUE",
) -> Iterator[pa.Table]:
    """The rows of a table in order of its column ``number``, which counts them from 0."""
    name = quote_identifier(table, PAGED)
    total = fetch_count(connection, f"SELECT count(*) FROM {name}")  # noqa: S608 (names come from this room)
    query = (
        f"SELECT {columns} FROM {name} WHERE number >= $first AND number < $last AND {where} ORDER BY number"  # noqa: S608
    )
    for first in range(0, total, PAGE_TEXTS):
        if progress:
            progress(what, first, total)
        bounds = {"first": first, "last": first + PAGE_TEXTS}
        yield connection.sql(query, params=bounds).to_arrow_table()


def computed(function: Callable[[Given], Found], pages: Iterable[Given], threads: int) -> Iterator[Found]:
    """What a function makes of each page, in order; a few pages are worked on ahead, by so many threads."""
    with ThreadPoolExecutor(threads) as executor:
        ahead: deque[Future[Found]] = deque()
        for page in pages:
            ahead.append(executor.submit(function, page))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def read_ahead(pages: Iterator[Given]) -> Iterator[Given]:
    """The same pages, each read while the one before it is worked on."""
    with ThreadPoolExecutor(1) as executor:
        coming = executor.submit(next, pages, None)
        while (page := coming.result()) is not None:
            coming = executor.submit(next, pages, None)
            yield page


def match_keys(page: pa.Table) -> pa.Array:
    """The match key of every row of a page with a ``text`` column."""
    return compared_column(page.column("text").combine_chunks())
