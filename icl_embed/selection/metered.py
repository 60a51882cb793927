"""What trying example sets costs: seconds on the clock, and tokens through the model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from icl_embed.evaluate.encoding import Encoder, Vectors
from icl_embed.examples import Example
from icl_embed.prompts import PromptBuilder


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock and tokens through the model."""

    seconds: float = 0.0
    tokens: int = 0

    def __sub__(self, earlier: Cost) -> Cost:
        return Cost(self.seconds - earlier.seconds, self.tokens - earlier.tokens)


@dataclass
class MeteredEncoder:
    """An encoder that counts the tokens it forwards; a prefix counts once per call."""

    encoder: Encoder
    tokens: int = 0
    started: float = field(default_factory=time.perf_counter)

    @property
    def prompts(self) -> PromptBuilder | None:
        """Builds the prompts."""
        return self.encoder.prompts

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.encoder.dimension

    @property
    def cost(self) -> Cost:
        """What has been spent since this meter was made."""
        return Cost(time.perf_counter() - self.started, self.tokens)

    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        instruction: str,
        examples: Sequence[Example] = (),
        batch_tokens: int = 8192,
        show_progress: bool = False,
    ) -> Vectors:
        """Vectors [N, D] of queries."""
        if self.prompts:
            self.tokens += len(self.prompts.prefix(instruction, examples).tokens)
            self.tokens += sum(map(len, self.prompts.query_tails(instruction, texts)))
        return self.encoder.encode_queries(
            texts,
            instruction=instruction,
            examples=examples,
            batch_tokens=batch_tokens,
            show_progress=show_progress,
        )

    def encode_passages(
        self, texts: Sequence[str], *, batch_tokens: int = 8192, show_progress: bool = False
    ) -> Vectors:
        """Vectors [N, D] of passages."""
        if self.prompts:
            self.tokens += sum(map(len, self.prompts.passages(texts)))
        return self.encoder.encode_passages(texts, batch_tokens=batch_tokens, show_progress=show_progress)
