"""Made-up training rows of any number, written in pieces: three data sets of three kinds, as mining writes them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from icl_embed.pool.export import EXPORTS, ROW_GROUP_ROWS
from tests.tiny_models import WORDS

NUM_TEXTS = 50_000
SHORT, LONG = 12, 40  # words of queries and negatives, and of passages
LABELS = [f"label {number}" for number in range(20)]
# kind of task -> its share of the rows, in the order of their names
SHARES = {"classification": 0.1, "retrieval": 0.8, "sts": 0.1}


def write_rows(path: Path, count: int, negatives: int) -> Path:
    """So many rows; every query is another text, negatives and passages are drawn from 50 thousand."""
    rng, texts = np.random.default_rng(0), random.Random(0)
    short = pa.array([" ".join(texts.choices(WORDS, k=SHORT)) for _ in range(NUM_TEXTS)])
    long = pa.array([" ".join(texts.choices(WORDS, k=LONG)) for _ in range(NUM_TEXTS)])
    labels = pa.array(LABELS)
    with pq.ParquetWriter(path, EXPORTS["train"], compression="zstd") as writer:
        for kind, share in SHARES.items():
            mine = round(share * count)
            for first in range(0, mine, ROW_GROUP_ROWS):
                size = min(ROW_GROUP_ROWS, mine - first)
                label = labels.take(pa.array(rng.integers(0, len(labels), size)))
                positive = (
                    label
                    if kind == "classification"
                    else long.take(pa.array(rng.integers(0, NUM_TEXTS, size)))
                )
                queries = short.take(pa.array(rng.integers(0, NUM_TEXTS, size))).to_pylist()
                others = short.take(pa.array(rng.integers(0, NUM_TEXTS, size * negatives)))
                offsets = np.arange(0, (size + 1) * negatives, negatives, dtype=np.int32)
                writer.write_table(
                    pa.table(
                        {
                            "pair_id": [f"{first + number:012}" for number in range(size)],
                            "dataset": pa.repeat(f"made-{kind}", size),
                            "kind": pa.repeat(kind, size),
                            "instruction": pa.repeat(f"find {kind}", size),
                            "query": [f"{query} {first + number}" for number, query in enumerate(queries)],
                            "positive": positive,
                            "negatives": pa.ListArray.from_arrays(offsets, others),
                            "label": label if kind == "classification" else pa.nulls(size, pa.string()),
                            "response": positive,
                            "positive_score": pa.nulls(size, pa.float64()),
                            "negative_scores": pa.nulls(size, pa.list_(pa.float64())),
                            "weight": pa.repeat(share, size),
                        }
                    ).cast(EXPORTS["train"])
                )
    return path
