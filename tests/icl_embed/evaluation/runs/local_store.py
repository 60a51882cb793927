"""Stores with small data sets, as ``data/…`` tasks, and an encoder that writes down what it is asked."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from icl_embed.store import StageKey, Store
from tests.icl_embed.evaluation.folders import HashEncoder, direction, row, sentence, write_dataset

LABELS = ("about animals", "about the sky", "about stones")
KINDS = ("retrieval", "reranking", "classification", "clustering", "sts", "pair_classification")


def rows_of(kind, base, size):
    rows = []
    for split, start in (("train", base), ("test", base + 500)):
        for n in range(size):
            number = start + n
            more = {"positives": [sentence(number + 10_000, 6)]}
            if kind == "reranking":
                more["negatives"] = [sentence(number + k, 6) for k in (20_000, 30_000)]
            elif kind in ("classification", "clustering"):
                more = {"label": LABELS[n % 3], "query": f"{LABELS[n % 3]} {sentence(number)}"}
            elif kind in ("sts", "pair_classification"):
                more["score"] = float(n % (5 if kind == "sts" else 2))
            rows.append(row(split, n, **({"query": sentence(number)} | more)))
    return rows


def add_dataset(
    store: Store, name: str, kind: str = "retrieval", *, base: int = 0, size: int = 16, rows=None
):
    """A dataset artefact as the pipeline would make it; returns its task name."""
    rows = rows or rows_of(kind, base, size)
    card = {"name": name, "kind": kind, "instruction": f"find what belongs to it, in {name}"}
    key = StageKey("dataset", 1, {"card": card, "base": base, "size": size}, label=name)
    corpus = [
        (f"{r['split']}-{r['row_id']}", r["split"], text)
        for r in rows
        for text in dict.fromkeys(r["positives"])
    ]

    def produce(folder: Path):
        write_dataset(folder, kind, rows, corpus if kind == "retrieval" else None)
        return {}

    store.build(key, produce)
    return f"data/{name}"


@dataclass
class RecordingEncoder(HashEncoder):
    """Examples move the vectors; everything that is encoded is written down, also to a file."""

    log: Path | None = None
    calls: list = field(default_factory=list)

    def encode_queries(self, texts, *, instruction, examples=(), batch_tokens=8192, show_progress=False):
        vectors = super().encode_queries(texts, instruction=instruction)
        for example in examples:
            vectors = vectors + 0.3 * direction(f"{example.query}->{example.response}", self.dimension)
        shown = [[one.query, one.response] for one in examples]
        self._note([["query", instruction, shown, text] for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def encode_passages(self, texts, *, batch_tokens=8192, show_progress=False):
        vectors = super().encode_passages(texts)
        self._note([["passage", text] for text in texts])
        return vectors

    def _note(self, calls):
        self.calls += calls
        if self.log:
            with self.log.open("a") as handle:
                handle.writelines(json.dumps(call) + "\n" for call in calls)
