"""What both trainers are asked to do (standard library alone), and what each reports."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """One training run, by the paper's lengths.

    Attributes
        steps: updates; the first one warms up and is not timed.
        num_negatives: per query, so a group is one more.
    """

    steps: int
    threads: int
    batch_size: int = 16
    num_negatives: int = 3
    query_tokens: int = 512
    passage_tokens: int = 512
    total_tokens: int = 2048
    example_tokens: int = 256
    lora_rank: int = 32
    lora_alpha: int = 64
    learning_rate: float = 1e-4
    temperature: float = 0.02
    seed: int = 0

    @property
    def rows(self) -> int:
        """Rows of one epoch that is as long as the run."""
        return self.steps * self.batch_size


@dataclass(frozen=True)
class Outcome:
    """What a run took, without its first step.

    Attributes
        queries_per_second: over all timed steps, tokenisation included.
        useful_token_share: tokens of texts, by tokens that the model was fed.
        examples_per_query: mean number of examples that queries were shown.
        peak_mib: greatest resident memory of the process.
    """

    queries_per_second: float
    useful_token_share: float
    examples_per_query: float
    peak_mib: float = 0.0

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """From JSON."""
        return cls(**json.loads(path.read_bytes()))
