"""What a model was trained on, text by text: through its lineage, or from Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icl_embed.errors import DataError, StoreError
from icl_embed.store import Store
from icl_embed.store.artefact import Artefact
from icl_embed.store.lineage import ancestors

TRAIN_NAME = "train.parquet"
TRAINED_STAGES = ("negatives", "pool")  # the first that an embedder was made from holds its training rows
TEXT_COLUMNS = (
    *("query", "positive", "positives", "pos", "response", "negative", "negatives", "neg"),
    *("text", "passage", "title", "sentence1", "sentence2"),
)
ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class TrainingTexts:
    """Distinct texts of one piece of a training set.

    Attributes
        dataset: where they come from.
        texts: string array [N].
        rows: rows of the file that they were read from.
    """

    dataset: str
    texts: pa.Array
    rows: int


def training_files(store: Store, model: Artefact) -> list[Path]:
    """The rows that an embedder artefact was trained on.

    Raises
        StoreError: nothing that it was made from holds training rows.
    """
    found = {one.manifest.stage: one for one in ancestors(store, model) if one.manifest}
    for stage in TRAINED_STAGES:
        if stage in found:
            _, _, fingerprint = found[stage].reference.partition("/")
            return [store.get(stage, fingerprint).path / TRAIN_NAME]
    raise StoreError(
        f"{model.reference} has no training rows in its lineage; name them with --train FILE.parquet"
    )


def read_training_texts(path: Path) -> Iterator[TrainingTexts]:
    """The texts of a Parquet file, some rows at a time; a pool folder stands for its training rows.

    Raises
        DataError: not Parquet, or without a column of texts.
    """
    path = path / TRAIN_NAME if path.is_dir() else path
    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in TEXT_COLUMNS if name in file.schema_arrow.names]
            if not names:
                raise DataError(
                    f"{path} has no column of texts: expected some of {', '.join(TEXT_COLUMNS)}, "
                    f"found {', '.join(file.schema_arrow.names)}"
                )
            labels = ["dataset"] if "dataset" in file.schema_arrow.names else []
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[*labels, *names]):
                yield from _by_dataset(batch, names, default=path.stem)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read training rows from {path}: {error}") from error


def _by_dataset(batch: pa.RecordBatch, names: list[str], *, default: str) -> Iterator[TrainingTexts]:
    if "dataset" not in batch.schema.names:
        yield TrainingTexts(default, _texts(batch, names), batch.num_rows)
        return
    for dataset in pc.unique(batch.column("dataset")).to_pylist():
        part = batch.filter(pc.equal(batch.column("dataset"), dataset))
        yield TrainingTexts(str(dataset), _texts(part, names), part.num_rows)


def _texts(batch: pa.RecordBatch, names: list[str]) -> pa.Array:
    """The distinct texts of all columns; lists are taken apart, nulls left out."""
    parts = []
    for name in names:
        column = batch.column(name)
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = pc.list_flatten(column)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise DataError(f"the column {name} must hold texts or lists of texts, found {column.type}")
        parts.append(column.cast(pa.string()))
    return pc.unique(pa.concat_arrays(parts).drop_null())
