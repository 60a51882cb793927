"""``python -m tests.bench.encode_ours``: a worker around our own embedder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from icl_embed.config import TemplateConfig
from icl_embed.examples import Example
from icl_embed.model.embedder import Embedder
from icl_embed.model.settings import EmbedderSettings
from tests.bench.encoder_worker import EncoderWorker
from tests.bench.workload import Workload


class OurEncoder:
    """Our embedder at its defaults: it chooses its batches itself."""

    libraries = ("icl-embed",)

    def __init__(self, folder: Path, dtype: str) -> None:
        settings = EmbedderSettings(template=TemplateConfig(special_tokens=True))
        self.embedder = Embedder.load(folder, device="cpu", dtype=dtype, settings=settings)
        self.dtype = str(self.embedder.model.dtype).removeprefix("torch.")

    def encode(self, work: Workload, batch_size: int | None) -> np.ndarray:
        """Through the public functions; the prefix is computed in every call."""
        if not work.instruction:
            return self.embedder.encode_passages(work.texts)
        examples = [Example(query, response) for query, response in work.examples]
        return self.embedder.encode_queries(work.texts, instruction=work.instruction, examples=examples)

    def tokens(self, work: Workload) -> list[list[int]]:
        """Prefix and row of each text."""
        prompts = self.embedder.prompts
        if not work.instruction:
            return prompts.passages(work.texts)
        examples = [Example(query, response) for query, response in work.examples]
        prefix = prompts.prefix(work.instruction, examples).tokens
        return [prefix + tail for tail in prompts.query_tails(work.instruction, work.texts)]


if __name__ == "__main__":
    EncoderWorker(OurEncoder).run()
