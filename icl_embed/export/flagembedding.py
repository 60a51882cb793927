"""Training rows as FlagEmbedding's fine-tuning reads them: one ``.jsonl`` per data set.

A line is ``{"query", "pos", "neg", "prompt", "type"}``, with ``pos_scores`` and ``neg_scores`` where a
teacher scored every passage, and ``category`` for label tasks (FlagEmbedding's icl/dataset.py). The name of a
data set whose rows must not be negatives of each other ends in ``no_in_batch_neg``; FlagEmbedding reads that
off files that it is given one by one (``--train_data out/*.jsonl``), not off those inside a folder.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from icl_embed.config import LABEL_KINDS
from icl_embed.errors import PoolError

logger = logging.getLogger(__name__)

TRAIN_NAME = "train.parquet"
TYPES: Mapping[str, str] = {
    "retrieval": "normal",
    "reranking": "normal",
    "pair_classification": "only_1neg",
    "sts": "symmetric_sts",
    "clustering": "symmetric_clustering",
    "classification": "symmetric_class",
}


def write_training_rows(source: Path, out_dir: Path) -> dict[str, int]:
    """Write the rows of a pool, or of a negatives artefact, into a folder; returns rows by data set.

    Parameters
        source: a folder with ``train.parquet``. The pool's rows have the negatives that came with the data,
            the artefact of the stage ``negatives`` has mined ones too.
        out_dir: an existing folder.

    Raises
        PoolError: no training rows there, or a row without a negative, which FlagEmbedding cannot read.
    """
    files: dict[str, IO[str]] = {}
    counts: dict[str, int] = {}
    without: dict[str, int] = {}
    try:
        for row in _rows(source / TRAIN_NAME):
            name = str(row["dataset"])
            if not row["negatives"]:
                without[name] = without.get(name, 0) + 1
                continue
            if name not in files:
                suffix = "-no_in_batch_neg" if row["kind"] in LABEL_KINDS else ""
                plain = name.replace("/", "-")  # of a collection: COLLECTION/SPLIT
                files[name] = (out_dir / f"{plain}{suffix}.jsonl").open("w", encoding="utf-8")
            files[name].write(json.dumps(flag_row(row), ensure_ascii=False) + "\n")
            counts[name] = counts.get(name, 0) + 1
    finally:
        for file in files.values():
            file.close()
    if not counts:
        raise PoolError(f"{source} has no row with a negative; name the artefact of the stage negatives")
    for name, number in without.items():
        logger.warning("%s: %d rows without a negative were left out", name, number)
    return counts


def flag_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row of ``train.parquet`` as FlagEmbedding's line."""
    line: dict[str, Any] = {"query": row["query"], "pos": [row["positive"]], "neg": list(row["negatives"])}
    scores = row["negative_scores"] or ()
    if row["positive_score"] is not None and scores and None not in scores:
        line |= {"pos_scores": [row["positive_score"]], "neg_scores": list(scores)}
    line |= {"prompt": row["instruction"], "type": TYPES[row["kind"]]}
    if row["kind"] in LABEL_KINDS:
        line["category"] = row["label"]
    return line


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except FileNotFoundError as error:
        raise PoolError(f"{path.parent} has no {TRAIN_NAME}; name a pool or a negatives artefact") from error
    except (pa.ArrowException, OSError) as error:
        raise PoolError(f"{path} is damaged: {error}; build it again") from error
