"""The part of an encoding worker that is the same for all: time a call, keep its vectors, tell its tokens."""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tests.bench.protocol import serve
from tests.bench.workload import Workload


class Encoder(Protocol):
    """One library around one loaded model."""

    libraries: Sequence[str]
    dtype: str

    def encode(self, work: Workload, batch_size: int | None) -> np.ndarray:
        """Vectors [N, D] of the texts, tokenisation included; ``None`` is the library's own batch size."""
        ...

    def tokens(self, work: Workload) -> list[list[int]]:
        """The token ids that the model is fed for each text."""
        ...


class EncoderFactory(Protocol):
    """Loads an encoder."""

    def __call__(self, folder: Path, dtype: str) -> Encoder: ...


class EncoderWorker:
    """Answers the driver's requests with one encoder."""

    def __init__(self, factory: EncoderFactory) -> None:
        self.factory = factory
        self.encoder: Encoder | None = None

    def run(self) -> None:
        """Serve until the driver leaves."""
        serve({"load": self.load, "encode": self.encode, "tokens": self.tokens, "peak": self.peak})

    def load(self, *, folder: str, dtype: str, threads: int) -> Mapping[str, Any]:
        """Load the model; says which libraries and number format are used."""
        import torch

        torch.set_num_threads(threads)
        self.encoder = self.factory(Path(folder), dtype)
        names = ("torch", "transformers", *self.encoder.libraries)
        return {
            "dtype": self.encoder.dtype,
            "threads": torch.get_num_threads(),
            "libraries": {name: importlib.metadata.version(name) for name in names},
        }

    def encode(self, *, work: dict[str, Any], batch_size: int | None, save: str = "") -> Mapping[str, Any]:
        """Seconds that encoding took; the vectors go to ``save``."""
        assert self.encoder
        workload = Workload.of(work)
        started = time.perf_counter()
        vectors = self.encoder.encode(workload, batch_size)
        seconds = time.perf_counter() - started
        if save:
            np.save(save, np.asarray(vectors, np.float32))
        return {"seconds": seconds}

    def tokens(self, *, work: dict[str, Any]) -> Mapping[str, Any]:
        """Token ids of each text."""
        assert self.encoder
        return {"tokens": self.encoder.tokens(Workload.of(work))}

    def peak(self, *, folder: str, dtype: str) -> Mapping[str, Any]:
        """The machine's best rate at matrix products of the model's shapes."""
        from tests.bench.peak import gemm_peak

        config = json.loads((Path(folder) / "config.json").read_bytes())
        return {"gflops": gemm_peak(dtype, config["hidden_size"], config["intermediate_size"])}
