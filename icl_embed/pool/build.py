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

import pyarrow as pa

from icl_embed.config import POSITIVE_SHARE, PoolConfig
from icl_embed.corpus.deduplicate import NearDuplicates, find_near_duplicates
from icl_embed.pool.database import (
    DATABASE_NAME,
    Connection,
    arrow_input,
    fetch_all,
    fetch_count,
    open_for_build,
    read_script,
    record_lineage,
    run_script,
)
from icl_embed.pool.export import export_all
from icl_embed.pool.inputs import PAGE_TEXTS, PoolInput, Progress, add_sources, add_texts, read_page
from icl_embed.pool.statistics import check_limits, collect, tell_long_texts
from icl_embed.texts import compared_column

NEGATIVE_SHARE = 0.2  # an sts pair up to this share of the scale's maximum is a negative
MAX_EXAMPLE_WORDS = 200  # per side; longer ones would fill the prompt
LONGEST = 2**31 - 1  # characters; no text reaches them
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
    with open_for_build(out_dir / DATABASE_NAME) as connection:
        run_script(connection, "schema")
        run_script(connection, "incoming")
        longest = _settle_long_texts(connection, config)
        add_sources(connection, inputs, progress)
        run_script(connection, "evaluation")
        add_texts(connection, config.decontamination_ngram, progress)
        _make_pairs(connection, config, longest, progress)
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


def _make_pairs(connection: Connection, config: PoolConfig, longest: int, progress: Progress | None) -> None:
    run_script(connection, "pairs", positive_share=POSITIVE_SHARE)
    run_script(
        connection,
        "clean",
        ngram=config.decontamination_ngram,
        min_characters=config.min_characters,
        max_characters=longest,
    )
    run_script(connection, "exact_duplicates")
    datasets = [row[0] for row in fetch_all(connection, "SELECT dataset FROM sources ORDER BY ALL")]
    for done, dataset in enumerate(datasets):
        if progress:
            progress("looking for near-duplicates", done, len(datasets))
        units = connection.sql(read_script("unit_texts"), params={"dataset": dataset}).to_arrow_table()
        dropped = find_near_duplicates(
            _named_keys(units, "pair_id"),
            threshold=config.near_duplicate_threshold,
            permutations=config.minhash_permutations,
        )
        found = {"pair_id": list(dropped), "kept_id": list(dropped.values())}
        with arrow_input(connection, "found", _strings(found)):
            run_script(connection, "near_duplicates")


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
    index = NearDuplicates(config.near_duplicate_threshold, permutations=config.minhash_permutations)
    for name, key in _named_keys(candidates, "name"):
        index.add(name, key)
    refused = {name.rpartition("#")[0] for name in _matches_of_evaluated(connection, index, progress)}
    with arrow_input(connection, "found", _strings({"pair_id": sorted(refused)})):
        run_script(connection, "refuse_examples", max_examples=config.max_examples_per_task)


def _matches_of_evaluated(
    connection: Connection, index: NearDuplicates, progress: Progress | None
) -> set[str]:
    """Names in the index that nearly repeat any evaluated text. Evaluated texts have the lowest numbers."""
    total = fetch_count(connection, "SELECT count(*) FROM numbered_texts WHERE evaluated")
    found: set[str] = set()
    for start in range(0, total, PAGE_TEXTS):
        if progress:
            progress("keeping evaluated texts out of the examples", start, total)
        page = read_page(connection, start, min(start + PAGE_TEXTS, total))
        for _, key in _named_keys(page, "number"):
            found.update(index.find(key))
    return found


def _named_keys(table: pa.Table, name: str) -> list[tuple[str, str]]:
    """(name, match key) of every row of a table with a ``text`` column."""
    keys = compared_column(table.column("text").combine_chunks()).to_pylist()
    return list(zip(table.column(name).to_pylist(), keys, strict=True))


def _strings(columns: dict[str, list[str]]) -> pa.Table:
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
