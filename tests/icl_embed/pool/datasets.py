"""Tiny data set artefacts for the pool's tests, written as the contract says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from icl_embed.config import PoolConfig
from icl_embed.pool.build import build_pool
from icl_embed.pool.inputs import PASSAGE_SCHEMA, ROW_SCHEMA, PoolInput

WORDS = (
    "amber birch cedar delta ember fjord grove heath islet jetty knoll larch maple nook oasis pine".split()
)
LENIENT = PoolConfig(max_dropped_fraction=1.0)


def sentence(number: int, length: int = 8) -> str:
    """A sentence that no other number gives: its digits spelled in words, then a hash-like tail."""
    digits = [WORDS[int(digit)] for digit in f"{number:04d}"]
    return " ".join((digits + [f"{word}{number}" for word in WORDS])[:length])


def row(number: int, split: str = "train", **fields: Any) -> dict[str, Any]:
    """A row with a unique query; give other fields by name."""
    empty = dict.fromkeys(ROW_SCHEMA.names)
    return empty | {
        "row_id": f"{split}-{number:06d}",
        "split": split,
        "query": sentence(number),
        "positives": [],
        "negatives": [],
        **fields,
    }


def passage(number: int) -> str:
    """A passage that belongs to the query of the same number, and shares words with it."""
    return f"{WORDS[number % 16]}{number} lies by the {sentence(number + 5000, 10)}"


def retrieval_row(number: int, split: str = "train", **fields: Any) -> dict[str, Any]:
    return row(number, split, **{"positives": [passage(number)], **fields})


def write_dataset(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    *,
    kind: str = "retrieval",
    trained: bool = True,
    passages: Sequence[tuple[str, str]] = (),
) -> PoolInput:
    """Write the artefact; for retrieval the corpus is every positive of the rows, and ``passages``."""
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=ROW_SCHEMA), folder / "rows.parquet")
    if kind == "retrieval":
        own = [(item["split"], text) for item in rows for text in item["positives"] or []]
        corpus = [
            {"passage_id": str(number), "split": split, "text": text}
            for number, (split, text) in enumerate([*own, *passages])
        ]
        pq.write_table(pa.Table.from_pylist(corpus, schema=PASSAGE_SCHEMA), folder / "corpus.parquet")
    return PoolInput(folder.name, kind, f"Instruction of {folder.name}.", folder, trained, "0" * 16)


def build(tmp_path: Path, *inputs: PoolInput, config: PoolConfig = LENIENT, seed: int = 7) -> Path:
    """Build a pool of these inputs in a new folder below ``tmp_path``."""
    folder = tmp_path / f"pool-{len(list(tmp_path.glob('pool-*')))}"
    folder.mkdir()
    build_pool(inputs, config, folder, seed=seed)
    return folder


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """Rows of an export."""
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def labelled_rows(num: int, labels: Sequence[str], split: str = "train") -> list[dict[str, Any]]:
    return [row(number, split, label=labels[number % len(labels)]) for number in range(num)]
