"""Dataset and pool folders in the artefact formats, and an encoder made of hashes."""

import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from icl_embed.evaluation.asking import plan_setting
from icl_embed.evaluation.models import OpenedModel
from icl_embed.evaluation.score import Cell
from icl_embed.evaluation.tasks.local import LocalBenchmarkTask
from icl_embed.evaluation.tasks.rows import EvaluationInput
from icl_embed.evaluation.tasks.task import EvaluatedModel
from icl_embed.few_shot.sources import ExampleSource, offer_examples
from icl_embed.model.cached_encoding import CachingEncoder

ROW_TYPES = {
    "row_id": pa.string(),
    "split": pa.string(),
    "query": pa.string(),
    "positives": pa.list_(pa.string()),
    "negatives": pa.list_(pa.string()),
    "label": pa.string(),
    "score": pa.float64(),
    "positive_scores": pa.list_(pa.float64()),
    "negative_scores": pa.list_(pa.float64()),
}
WORDS = "cat dog fish bird red blue green big small sun moon star tree river stone fire water".split()


def row(split, number, query, **more):
    empty = dict.fromkeys(ROW_TYPES)
    return (
        empty
        | {
            "row_id": f"{split}-{number:06d}",
            "split": split,
            "query": query,
            "positives": [],
            "negatives": [],
        }
        | more
    )


def sentence(seed, length=5):
    return " ".join(np.random.default_rng(seed).choice(WORDS, length)) + f" {seed}"


def write_dataset(folder, kind, rows, corpus=None, **more):
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(ROW_TYPES.items())), folder / "rows.parquet")
    if corpus is not None:
        names = ("passage_id", "split", "text")
        table = pa.table({name: [entry[i] for entry in corpus] for i, name in enumerate(names)})
        pq.write_table(table, folder / "corpus.parquet")
    facts = {"name": f"toy-{kind}", "instruction": "find the similar text", "fingerprint": "0123456789abcdef"}
    return EvaluationInput(kind=kind, folder=folder, **(facts | more))


def make_dataset(folder, kind, size=24):
    """A small data set of a kind with train and test splits."""
    if kind == "retrieval":
        rows = [
            row(s, n, sentence(n + o, 3), positives=[sentence(n + o)]) for s, o in SPLITS for n in range(size)
        ]
        corpus = [(f"{s}-p{n:03d}", s, sentence(n + o)) for s, o in SPLITS for n in range(size)]
        return write_dataset(folder, kind, rows, corpus)
    if kind == "reranking":
        rows = [
            row(
                s,
                n,
                sentence(n + o, 3),
                positives=[sentence(n + o)],
                negatives=[sentence(n + o + k) for k in (1, 2, 3)],
            )
            for s, o in SPLITS
            for n in range(size)
        ]
        return write_dataset(folder, kind, rows)
    if kind in ("sts", "pair_classification"):
        levels = 2 if kind == "pair_classification" else 5
        rows = [
            row(s, n, sentence(n + o), positives=[sentence(n + o + n % levels, 4)], score=float(n % levels))
            for s, o in SPLITS
            for n in range(size)
        ]
        return write_dataset(folder, kind, rows)
    labels = ("a question about animals", "a question about the sky", "other")
    rows = [
        row(s, n, f"{labels[n % 3]} {sentence(n + o)}", label=labels[n % 3])
        for s, o in SPLITS
        for n in range(size)
    ]
    return write_dataset(folder, kind, rows)


SPLITS = (("train", 1000), ("test", 5000))


def write_pool(folder, dataset, pairs):
    """The part of a pool that evaluation reads: ``examples.parquet``."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "dataset": dataset.name,
            "kind": dataset.kind,
            "instruction": dataset.instruction,
            "query": query,
            "response": response,
            "label": None,
            "rank": rank,
        }
        for rank, (query, response) in enumerate(pairs)
    ]
    types = {name: pa.string() for name in ("dataset", "kind", "instruction", "query", "response", "label")}
    pq.write_table(
        pa.Table.from_pylist(rows, schema=pa.schema([*types.items(), ("rank", pa.int64())])),
        folder / "examples.parquet",
    )
    return folder


@dataclass
class HashEncoder:
    """Bags of hashed words as unit vectors; examples change the vectors a little. Counts its calls."""

    prompts: object
    dimension: int = 48
    seen: list = field(default_factory=list)

    def encode_queries(self, texts, *, instruction, examples=(), batch_tokens=8192, show_progress=False):
        self.seen += [("query", len(examples), text) for text in texts]
        return self._vectors(texts, salt=len(examples))

    def encode_passages(self, texts, *, batch_tokens=8192, show_progress=False):
        self.seen += [("passage", 0, text) for text in texts]
        return self._vectors(texts, salt=0)

    def _vectors(self, texts, salt):
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for index, text in enumerate(texts):
            for word in text.lower().split():
                vectors[index] += direction(word, self.dimension)
            vectors[index] += 0.3 * direction(f"{text}{salt}", self.dimension)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def direction(text, dimension):
    return np.random.default_rng(zlib.crc32(text.encode())).normal(size=dimension).astype(np.float32)


def score_folder(dataset, model, asked, folder, *, config, pool=None, seed=1):
    """A score's folder, made as the stage makes it; returns the counts of its manifest."""
    task, source = LocalBenchmarkTask(dataset, config), ExampleSource(pool_dir=pool)
    offered = offer_examples(task, source) if asked and asked.shots else None
    plan = asked and plan_setting(
        asked, task, offered, instruction=dataset.instruction, config=config, source=source
    )
    folder.mkdir(parents=True, exist_ok=True)
    cell = Cell(model, task, plan, offered, dataset.instruction, config, seed)
    return cell.measure_or_say(folder, lambda: CachingEncoder(model.encoder))


BM25_MODEL = OpenedModel(EvaluatedModel("bm25", "v1", Path(), dtype="none"), "bm25")
