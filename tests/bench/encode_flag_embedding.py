"""``python -m tests.bench.encode_flag_embedding``: a worker around FlagEmbedding's ICL embedder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from FlagEmbedding.inference.embedder.decoder_only.icl import ICLLLMEmbedder

from tests.bench.encoder_worker import EncoderWorker
from tests.bench.workload import Workload


class FlagEmbeddingEncoder:
    """ICLLLMEmbedder with its own prompt formats; on CPUs it always computes in fp32."""

    libraries = ("FlagEmbedding",)

    def __init__(self, folder: Path, dtype: str) -> None:
        self.embedder = ICLLLMEmbedder(
            str(folder), use_fp16=False, devices="cpu", query_max_length=512, passage_max_length=512
        )
        self.dtype = str(self.embedder.model.dtype).removeprefix("torch.")
        if self.dtype != dtype:
            raise ValueError(f"FlagEmbedding computes in {self.dtype} on CPUs, {dtype} was asked for")

    def encode(self, work: Workload, batch_size: int | None) -> np.ndarray:
        """Through its public functions."""
        if not work.instruction:
            return self.embedder.encode_corpus(list(work.texts), batch_size=batch_size)
        self._set_task(work)
        return self.embedder.encode_queries(list(work.texts), batch_size=batch_size)

    def _set_task(self, work: Workload) -> None:
        self.embedder.query_instruction_for_retrieval = work.instruction
        self.embedder.set_examples(
            [
                {"instruct": work.instruction, "query": query, "response": response}
                for query, response in work.examples
            ]
        )
        if not work.examples:
            self.embedder.prefix = ""  # an empty list would leave a blank line

    def tokens(self, work: Workload) -> list[list[int]]:
        """What its own code feeds the model, one text at a time so that nothing is reordered."""
        self._set_task(work)
        queries = self.embedder.encode_queries_single_device
        encode = queries if work.instruction else self.embedder.encode_single_device
        model, recorder = self.embedder.model, Recorder()
        self.embedder.model = recorder
        try:
            for text in work.texts:
                encode([text], batch_size=1, max_length=512, device="cpu")
                recorder.keep_last()
        finally:
            self.embedder.model = model
        return recorder.kept


class Recorder(torch.nn.Module):
    """Stands in for the model and keeps the token ids that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.last: list[int] = []
        self.kept: list[list[int]] = []

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> Any:
        """States that are never looked at."""
        self.last = input_ids[attention_mask.bool()].tolist()
        return SimpleNamespace(last_hidden_state=torch.ones(*input_ids.shape, 1))

    def keep_last(self) -> None:
        """FlagEmbedding runs its first batch twice: only the call as a whole counts."""
        self.kept.append(self.last)


if __name__ == "__main__":
    EncoderWorker(FlagEmbeddingEncoder).run()
