"""Made-up data sets of any size for the pool: words by Zipf's law, with planted copies and planted contamination.

Two data sets, written batch by batch: ``answers`` (reranking: a query, one passage that answers it and three that
do not, as in the paper's data) and ``topics`` (classification: a longer text and its label). A batch does not depend on
how many follow, so a smaller size is the beginning of a larger one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icl_embed.pool.inputs import ROW_SCHEMA, PoolInput

BATCH_ROWS = 25_000
TEXTS_PER_ROW = 5  # of answers; a row of topics has one
TOPICS_SHARE = 0.1  # rows of topics for each row of answers
VOCABULARY = 200_000
EXPONENT = 1.05
COPIES = 0.05  # of a batch's rows repeat the query of another; as many nearly repeat one
EVALUATED = 0.01  # of a batch's rows are in the test split
CONTAMINATED = 0.002  # of a batch's rows have 20 words in a row of an evaluated passage in theirs
RUN_WORDS = 20
NON_ASCII = 0.005  # of the vocabulary's words, the commonest thousand left out
QUERY_WORDS, PASSAGE_WORDS, TOPIC_WORDS = (6, 15), (20, 60), (15, 50)


def write_material(folder: Path, texts: int) -> None:
    """Write data sets with about as many texts in all."""
    rows = round(texts / (TEXTS_PER_ROW + TOPICS_SHARE))
    words = _vocabulary()
    _write(folder / "answers", rows, words, 0)
    _write(folder / "topics", round(rows * TOPICS_SHARE), words, 1)


def material(folder: Path) -> list[PoolInput]:
    """What the pool is given of a folder that ``write_material`` filled."""
    return [
        PoolInput("answers", "reranking", "Find the answer.", folder / "answers", True, "0" * 16),
        PoolInput("topics", "classification", "Name the topic.", folder / "topics", True, "1" * 16),
    ]


def _write(folder: Path, rows: int, words: pa.Array, which: int) -> None:
    folder.mkdir(parents=True)
    make = (_answers, _topics)[which]
    with pq.ParquetWriter(folder / "rows.parquet", ROW_SCHEMA) as writer:
        for first in range(0, rows, BATCH_ROWS):
            rng = np.random.default_rng([which, first])
            columns = make(rng, words, BATCH_ROWS)
            split = np.where(rng.random(BATCH_ROWS) < EVALUATED, "test", "train")
            names = [f"row-{number:09d}" for number in range(first, first + BATCH_ROWS)]
            empty = {name: pa.nulls(BATCH_ROWS, ROW_SCHEMA.field(name).type) for name in ROW_SCHEMA.names}
            table = pa.table(
                empty | {"row_id": pa.array(names), "split": pa.array(split)} | columns, schema=ROW_SCHEMA
            )
            writer.write_table(table.slice(0, rows - first))


def _answers(rng: np.random.Generator, words: pa.Array, rows: int) -> dict[str, pa.Array]:
    lengths = rng.integers(*PASSAGE_WORDS, rows * 4)
    drawn = _draw(rng, lengths.sum())
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for row in rng.choice(rows, round(rows * CONTAMINATED), replace=False):  # from some other passage
        source, target = starts[rng.integers(rows * 4)], starts[row * 4]
        drawn[target : target + RUN_WORDS] = drawn[source : source + RUN_WORDS]
    passages = _join(words, drawn, lengths, ".")
    firsts = pa.array(np.arange(rows + 1, dtype=np.int32))
    positives = pa.ListArray.from_arrays(firsts, passages.take(pa.array(np.arange(rows) * 4)))
    others = passages.take(pa.array(np.flatnonzero(np.arange(rows * 4) % 4)))
    negatives = pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * 3), others)
    query = _with_copies(rng, _texts(rng, words, rows, QUERY_WORDS, "?"))
    return {"query": query, "positives": positives, "negatives": negatives}


def _topics(rng: np.random.Generator, words: pa.Array, rows: int) -> dict[str, pa.Array]:
    query = _with_copies(rng, _texts(rng, words, rows, TOPIC_WORDS, "."))
    labels = pa.array([f"topic {number}" for number in range(50)])
    by_text = pc.binary_length(query).to_numpy() % 50  # so that a copy has its original's label
    return {"query": query, "label": labels.take(pa.array(by_text))}


def _with_copies(rng: np.random.Generator, texts: pa.Array) -> pa.Array:
    """Some texts become another one, up to case, and as many another one with another last mark."""
    rows, count = len(texts), round(len(texts) * COPIES)
    source = np.arange(rows)
    changed = rng.choice(rows, 2 * count, replace=False)
    source[changed] = rng.integers(0, rows, 2 * count)
    found = texts.take(pa.array(source)).to_pylist()
    for row in changed[:count]:
        found[row] = found[row].capitalize()
    for row in changed[count:]:
        found[row] = found[row][:-1] + "!"
    return pa.array(found, pa.string())


def _texts(
    rng: np.random.Generator, words: pa.Array, rows: int, between: tuple[int, int], mark: str
) -> pa.Array:
    lengths = rng.integers(*between, rows)
    return _join(words, _draw(rng, lengths.sum()), lengths, mark)


def _join(words: pa.Array, drawn: np.ndarray, lengths: np.ndarray, mark: str) -> pa.Array:
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    lists = pa.ListArray.from_arrays(offsets, words.take(pa.array(drawn)))
    return pc.binary_join_element_wise(pc.binary_join(lists, " "), mark, "")


def _draw(rng: np.random.Generator, count: int) -> np.ndarray:
    """Numbers of words: rank r with a share of about 1 / r ** EXPONENT."""
    tail = VOCABULARY ** (1 - EXPONENT)
    ranks = (1 - rng.random(count) * (1 - tail)) ** (1 / (1 - EXPONENT))
    return np.minimum(ranks.astype(np.int64), VOCABULARY) - 1


def _vocabulary() -> pa.Array:
    rng = np.random.default_rng(7)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    weights = 1 / np.arange(3, len(letters) + 3)
    found = dict.fromkeys(["the", "of", "and", "to", "a", "in", "is", "for"])
    while len(found) < VOCABULARY:
        length = 2 + min(9, int(np.log2(len(found)) / 3) + rng.integers(0, 4))
        word = "".join(rng.choice(letters, length, p=weights / weights.sum()))
        if len(found) > 1000 and rng.random() < NON_ASCII:
            word = word[:-1] + "é"
        found.setdefault(word)
    return pa.array(found)
