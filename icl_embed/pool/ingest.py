"""Data set artefacts into the database: rows, corpora, and what is known about each distinct text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from icl_embed.config import LABEL_KINDS
from icl_embed.corpus.clean import match_keys
from icl_embed.corpus.decontaminate import ngram_hashes, split_words
from icl_embed.errors import DataError, PoolError
from icl_embed.pool.database import Connection, arrow_input, fetch_all, fetch_count, run_script
from icl_embed.pool.inputs import PoolInput, Progress, read_passages, read_rows

PAGE_TEXTS = 32_768

# What a row must be before anything is computed from it: (what is wrong, query for the first offender).
_ROW_CHECKS = (
    ("row_id is missing", "SELECT dataset, coalesce(row_id, '?') FROM incoming_rows WHERE row_id IS NULL"),
    (
        "row_id appears twice",
        "SELECT dataset, row_id FROM incoming_rows GROUP BY ALL HAVING count(*) > 1",
    ),
    (
        "split is not train, dev or test",
        "SELECT dataset, row_id FROM incoming_rows WHERE coalesce(split, '') NOT IN ('train', 'dev', 'test')",
    ),
    (
        "positive_scores needs one score per positive",
        "SELECT dataset, row_id FROM incoming_rows WHERE len(positive_scores) <> len(positive_ids)",
    ),
    (
        "negative_scores needs one score per negative",
        "SELECT dataset, row_id FROM incoming_rows WHERE len(negative_scores) <> len(negative_ids)",
    ),
    (
        "a teacher score is not finite",
        "SELECT dataset, row_id FROM incoming_rows WHERE len(list_filter("
        "list_concat(positive_scores, negative_scores), lambda s: NOT isfinite(s))) > 0",
    ),
)


def add_sources(connection: Connection, inputs: Sequence[PoolInput], progress: Progress | None) -> None:
    """Read every data set into the scratch tables.

    Raises
        DataError: a file or a row breaks the format; the message names it.
        PoolError: two data sets have the same name.
    """
    names = [source.name for source in inputs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise PoolError(f"each data set enters a pool once, found twice: {', '.join(repeated)}")
    for done, source in enumerate(sorted(inputs, key=lambda source: source.name)):
        if progress:
            progress("reading data sets", done, len(inputs))
        connection.execute(
            "INSERT INTO sources VALUES (?, ?, ?, ?, ?, NULL, NULL)",
            [source.name, source.kind, source.instruction, source.trained, source.fingerprint],
        )
        for batch in read_rows(source):
            with arrow_input(connection, "incoming_batch", batch):
                has_labels = source.kind in LABEL_KINDS
                run_script(connection, "add_rows", dataset=source.name, has_labels=has_labels)
        for batch in read_passages(source):
            with arrow_input(connection, "incoming_batch", batch):
                run_script(connection, "add_passages", dataset=source.name)
    _check_rows(connection)


def add_texts(connection: Connection, ngram: int, progress: Progress | None) -> None:
    """Fill ``texts`` page by page, and find the texts that share an n-gram with an evaluated one."""
    total = fetch_count(connection, "SELECT count(*) FROM numbered_texts")
    for start in range(0, total, PAGE_TEXTS):
        if progress:
            progress("comparing texts", start, total)
        page = read_page(connection, start, start + PAGE_TEXTS)
        facts, ngrams = _page_facts(page, ngram)
        with arrow_input(connection, "page_facts", facts), arrow_input(connection, "page_ngrams", ngrams):
            run_script(connection, "add_facts")


def read_page(connection: Connection, first: int, last: int) -> pa.Table:
    """The texts numbered first ... last - 1, as columns ``number`` and ``text``."""
    query = "SELECT number, text FROM numbered_texts WHERE number >= $first AND number < $last ORDER BY ALL"
    return connection.sql(query, params={"first": first, "last": last}).to_arrow_table()


def _page_facts(page: pa.Table, ngram: int) -> tuple[pa.Table, pa.Table]:
    numbers = page.column("number").combine_chunks().to_numpy(zero_copy_only=False)
    texts = page.column("text").combine_chunks()
    words = split_words(texts)
    text_of, hashes = ngram_hashes(words, ngram)
    facts = {
        "number": numbers,
        "match_key": match_keys(texts),
        "num_words": words.counts().astype(np.int32),
    }
    return pa.table(facts), pa.table({"number": numbers[text_of], "ngram": hashes})


def _check_rows(connection: Connection) -> None:
    for problem, query in _ROW_CHECKS:
        for dataset, row_id in fetch_all(connection, f"{query} ORDER BY ALL LIMIT 1"):
            raise DataError(f"data set {dataset}, row {row_id}: {problem}; build the data set again")
