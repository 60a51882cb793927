"""``python -m tests.bench.encode_sentence_transformers``: a worker around sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from tests.bench.encoder_worker import EncoderWorker
from tests.bench.workload import Workload


class SentenceTransformersEncoder:
    """The same folder with last-token pooling: passages only, it has no notion of examples."""

    libraries = ("sentence-transformers",)

    def __init__(self, folder: Path, dtype: str) -> None:
        transformer = Transformer(str(folder), max_seq_length=512, model_kwargs={"dtype": dtype})
        pooling = Pooling(transformer.get_word_embedding_dimension(), "lasttoken")
        self.model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")
        self.dtype = str(self.model.dtype).removeprefix("torch.")

    def encode(self, work: Workload, batch_size: int | None) -> np.ndarray:
        """Through its public function."""
        _refuse_queries(work)
        size = {} if batch_size is None else {"batch_size": batch_size}
        return self.model.encode(list(work.texts), **size)

    def tokens(self, work: Workload) -> list[list[int]]:
        """Token ids of each passage."""
        _refuse_queries(work)
        ids: list[list[int]] = self.model.tokenizer(list(work.texts), truncation=True, max_length=512)[
            "input_ids"
        ]
        return ids


def _refuse_queries(work: Workload) -> None:
    if work.instruction:
        raise ValueError("sentence-transformers is compared on passages alone")


if __name__ == "__main__":
    EncoderWorker(SentenceTransformersEncoder).run()
