"""Near-duplicates among the units of every data set, whatever the order of the input.

Buckets of all units go into the database, which finds those that two units share and may spill to disk. Only
units with a shared bucket are then walked through; most have none, and are never compared with anything.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from icl_embed.config import PoolConfig
from icl_embed.corpus.characters import mixed
from icl_embed.corpus.deduplicate import KeptTexts, buckets, shingle_hashes
from icl_embed.pool.database import Connection, arrow_input, run_script
from icl_embed.pool.pages import Progress, computed, match_keys, read_pages


def drop_near_duplicates(
    connection: Connection, config: PoolConfig, scratch_dir: Path, progress: Progress | None
) -> None:
    """Give the pairs of every unit that nearly repeats an earlier one their reason."""
    run_script(connection, "units")
    _add_buckets(connection, config, progress)
    run_script(connection, "suspects")
    entries = connection.sql("SELECT number, bucket FROM suspect_buckets ORDER BY ALL").to_arrow_table()
    text_of, bucket_of = (entries.column(name).to_numpy() for name in ("number", "bucket"))
    repeating: list[int] = []
    repeated: list[int] = []
    with tempfile.TemporaryFile(dir=scratch_dir) as scratch:
        kept = KeptTexts(config.near_duplicate_threshold, text_of, bucket_of, scratch)
        pages = read_pages(connection, "suspects", "number, text", "comparing near-duplicates", progress)
        for page in computed(_shingles, pages, config.threads):
            for number, shingles in page:
                found = kept.repeated_by(number, shingles)
                repeating += [int(kept.texts[number])] * len(found)
                repeated += found
    columns = {"number": pa.array(repeating, pa.int64()), "kept": pa.array(repeated, pa.int64())}
    with arrow_input(connection, "found", pa.table(columns)):
        run_script(connection, "near_duplicates")


def _add_buckets(connection: Connection, config: PoolConfig, progress: Progress | None) -> None:
    def find(page: pa.Table) -> pa.Table:
        found, _ = buckets(match_keys(page), config.near_duplicate_threshold, config.minhash_permutations)
        # the same bucket of another data set is another bucket
        found = mixed(found ^ page.column("place").to_numpy().astype(np.uint64)[:, None])
        numbers = np.repeat(page.column("number").to_numpy(), found.shape[1])
        return pa.table({"number": numbers, "bucket": found.ravel()})

    pages = read_pages(
        connection, "unit_texts", "number, place, text", "looking for near-duplicates", progress
    )
    for page_buckets in computed(find, pages, config.threads):
        with arrow_input(connection, "page_buckets", page_buckets):
            connection.execute("INSERT INTO unit_buckets SELECT number, bucket FROM page_buckets")


def _shingles(page: pa.Table) -> list[tuple[int, np.ndarray]]:
    shingles = shingle_hashes(match_keys(page))
    return [(number, shingles.of(row)) for row, number in enumerate(page.column("number").to_pylist())]
