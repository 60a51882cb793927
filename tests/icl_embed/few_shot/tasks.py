"""A pool with a searchable task of every sort, and an encoder whose vectors really depend on the examples."""

from pathlib import Path

import numpy as np

from tests.icl_embed.evaluation.folders import HashEncoder, direction
from tests.icl_embed.pool.datasets import build, passage, retrieval_row, row, sentence, write_dataset

LABELS = ("about birds", "about rivers", "about stones")
ROWS = 80


def build_task_pool(home: Path) -> Path:
    """A pool with tasks of every sort: retrieval (trained on), reranking, classification, clustering and sts; the data is gone."""
    splits = [("train", number) for number in range(ROWS)] + [("test", number) for number in range(500, 520)]
    ranked = [
        row(
            n + 2000,
            split,
            positives=[passage(n + 2000)],
            negatives=[passage(n + k) for k in (3000, 4000, 5000)],
        )
        for split, n in splits
    ]
    labelled = {
        kind: [
            row(n + base, split, query=f"{LABELS[n % 3]} {sentence(n + base)}", label=LABELS[n % 3])
            for split, n in splits
        ]
        for kind, base in (("classification", 6000), ("clustering", 7000))
    }
    scored = [
        row(n + 8000, split, positives=[sentence(n + 8000 + n % 4)], score=float(n % 5))
        for split, n in splits
    ]
    inputs = [
        write_dataset(home / "answers", [retrieval_row(n, split) for split, n in splits]),
        write_dataset(home / "ranks", ranked, kind="reranking", trained=False),
        write_dataset(home / "labels", labelled["classification"], kind="classification", trained=False),
        write_dataset(home / "groups", labelled["clustering"], kind="clustering", trained=False),
        write_dataset(home / "scores", scored, kind="sts", trained=False),
    ]
    return build(home, *inputs)


class ExampleEncoder(HashEncoder):
    """Bags of words with something of every example mixed in, so example sets differ in worth. Keeps all texts."""

    def encode_queries(self, texts, *, instruction, examples=(), batch_tokens=8192, show_progress=False):
        vectors = super().encode_queries(texts, instruction=instruction)
        self.seen += [
            ("shown", len(examples), text) for one in examples for text in (one.query, one.response)
        ]
        for example in examples:
            vectors = vectors + 0.1 * direction(f"{example.query}->{example.response}", self.dimension)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
