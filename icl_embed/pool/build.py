"""Raw rows into training pairs and examples that can be trusted.

clean → decontaminate → exact duplicates → near-duplicates → passages, negatives, examples → weights → export.
Decontamination comes first, so that its counts do not depend on which copy of a text another rule keeps.
Every rejected pair stays in the database with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from icl_embed.config import POSITIVE_SHARE, PoolConfig
from icl_embed.corpus.decontaminate import HashSieve, ngram_hashes, split_words
from icl_embed.corpus.deduplicate import IndexedTexts
from icl_embed.pool.database import (
    DATABASE_NAME,
    Connection,
    arrow_input,
    fetch_all,
    open_for_build,
    read_script,
    record_lineage,
    run_script,
)
from icl_embed.pool.export import export_all
from icl_embed.pool.inputs import PoolInput, add_sources
from icl_embed.pool.near_duplicates import drop_near_duplicates
from icl_embed.pool.pages import Progress, computed, match_keys, read_pages
from icl_embed.pool.statistics import check_limits, collect, tell_long_texts

NEGATIVE_SHARE = 0.2  # an sts pair up to this share of the scale's maximum is a negative
MAX_EXAMPLE_WORDS = 200  # per side; longer ones would fill the prompt
LONGEST = 2**31 - 1  # characters; no text reaches them
PAGES_OF_A_COMMIT = 15  # a row group of the database's
SPARE_CANDIDATES = 2  # candidate examples per place, because near-duplicates are found late


def build_pool(
    inputs: Sequence[PoolInput],
    config: PoolConfig,
    out_dir: Path,
    *,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Build the pool of some data sets in an empty folder.

    Writes ``pool.duckdb`` (schema.sql), ``train.parquet``, ``examples.parquet``, ``passages.parquet``,
    ``relations.parquet`` (texts that must not become each other's negatives) and ``statistics.json``. The
    Parquet files are the same, byte for byte, for the same inputs, config and seed.

    Returns
        counts for the manifest: rows per table and export, and pairs per data set.

    Raises
        PoolError: too much was rejected, nothing is left, or another process writes this pool.
        DataError: an input breaks the data set format.
    """
    path = out_dir / DATABASE_NAME
    with open_for_build(path, memory_limit=config.memory_limit, threads=config.threads) as connection:
        run_script(connection, "schema")
        run_script(connection, "incoming")
        longest = _settle_long_texts(connection, config)
        add_sources(connection, inputs, config.threads, progress)
        run_script(connection, "evaluation")
        _add_texts(connection, config, progress)
        _make_pairs(connection, config, longest)
        drop_near_duplicates(connection, config, out_dir, progress)
        _set_weights(connection, config.sampling_temperature)
        run_script(connection, "passages", max_characters=longest)
        run_script(connection, "negatives", max_characters=longest, negative_share=NEGATIVE_SHARE)
        _make_examples(connection, config, seed, progress)
        statistics = collect(connection, config)
        tell_long_texts(statistics, config)
        check_limits(statistics, config)
        exported = export_all(connection, out_dir)
        tables = record_lineage(connection)
    text = json.dumps(statistics, indent=1, ensure_ascii=False, allow_nan=False)
    (out_dir / "statistics.json").write_text(text + "\n", encoding="utf-8")
    pairs = {name: found["pairs_out"] for name, found in statistics["datasets"].items()}
    return {"tables": tables, "exported": exported, "pairs": pairs}


def _settle_long_texts(connection: Connection, config: PoolConfig) -> int:
    """Characters above which a text is refused; where long texts are cut instead, the exports do it.

    Everything before them, such as the comparison with evaluated texts, sees the whole text.
    """
    is_cut = config.long_texts == "cut"
    shown = f"rtrim(left(t, {config.max_characters}))" if is_cut else "t"
    connection.execute(f"CREATE OR REPLACE TEMP MACRO shown(t) AS {shown}")
    return LONGEST if is_cut else config.max_characters


def _add_texts(connection: Connection, config: PoolConfig, progress: Progress | None) -> None:
    """Fill ``texts`` page by page, and find the texts that share an n-gram with an evaluated one."""
    size, sieve = config.decontamination_ngram, HashSieve()
    pages = read_pages(connection, "evaluated_texts", "text", "reading evaluated texts", progress)
    for _, hashes in computed(
        lambda page: ngram_hashes(split_words(match_keys(page)), size), pages, config.threads
    ):
        sieve.add(hashes)
        with arrow_input(connection, "page_ngrams", pa.table({"ngram": hashes})):
            connection.execute("INSERT INTO evaluation_ngrams SELECT ngram FROM page_ngrams")

    def facts(page: pa.Table) -> tuple[pa.Table, pa.Table]:
        keys = match_keys(page)
        words = split_words(keys)
        text_of, hashes = ngram_hashes(words, size)
        held = sieve.may_hold(hashes)
        found = page.append_column("match_key", keys)
        found = found.append_column("num_words", pa.array(words.counts().astype(np.int32)))
        return found, pa.table(
            {"text_id": page.column("text_id").take(pa.array(text_of[held])), "ngram": hashes[held]}
        )

    is_first = "number IN (SELECT number FROM first_texts WHERE number >= $first AND number < $last)"
    pages = read_pages(connection, "numbered_texts", "text_id, text", "comparing texts", progress, is_first)
    connection.execute("BEGIN")  # or every page would be written twice: to the log, then to the table
    for done, (page_facts, page_ngrams) in enumerate(computed(facts, pages, config.threads), start=1):
        with (
            arrow_input(connection, "page_facts", page_facts),
            arrow_input(connection, "page_ngrams", page_ngrams),
        ):
            run_script(connection, "add_facts")
        if done % PAGES_OF_A_COMMIT == 0:  # until then the database holds what it was given as Arrow
            connection.execute("COMMIT")
            connection.execute("BEGIN")
    connection.execute("COMMIT")
    run_script(connection, "ngrams")


def _make_pairs(connection: Connection, config: PoolConfig, longest: int) -> None:
    run_script(connection, "pairs", positive_share=POSITIVE_SHARE)
    run_script(
        connection,
        "clean",
        ngram=config.decontamination_ngram,
        min_characters=config.min_characters,
        max_characters=longest,
    )
    run_script(connection, "exact_duplicates")


def _set_weights(connection: Connection, temperature: float) -> None:
    """Weight of a trained data set: its number of pairs to the power of the temperature, normalised."""
    connection.execute(
        """
        UPDATE sources SET num_pairs = (
            SELECT count(*) FROM pairs
            WHERE pairs.dataset = sources.dataset AND reason IS NULL AND is_positive
        )
        """
    )
    rows = fetch_all(
        connection, "SELECT dataset, num_pairs FROM sources WHERE trained AND num_pairs > 0 ORDER BY dataset"
    )
    raw = {dataset: num_pairs**temperature for dataset, num_pairs in rows}
    for dataset, weight in raw.items():
        share = weight / sum(raw.values())
        connection.execute("UPDATE sources SET weight = ? WHERE dataset = ?", [share, dataset])


def _make_examples(connection: Connection, config: PoolConfig, seed: int, progress: Progress | None) -> None:
    run_script(
        connection,
        "examples",
        seed=str(seed),
        max_words=MAX_EXAMPLE_WORDS,
        num_candidates=SPARE_CANDIDATES * config.max_examples_per_task,
    )
    candidates = connection.sql(read_script("example_texts")).to_arrow_table()
    index = IndexedTexts(match_keys(candidates), config.near_duplicate_threshold, config.minhash_permutations)
    pages = read_pages(
        connection, "evaluated_texts", "text", "keeping evaluated texts out of the examples", progress
    )
    found: set[int] = set()
    for matched in computed(lambda page: index.matched_by(match_keys(page)), pages, config.threads):
        found |= matched
    names = candidates.column("name").take(pa.array(sorted(found), pa.int64())).to_pylist()
    refused = sorted({name.rpartition("#")[0] for name in names})
    with arrow_input(connection, "found", pa.table({"pair_id": pa.array(refused, pa.string())})):
        run_script(connection, "refuse_examples", max_examples=config.max_examples_per_task)
