"""The embedder that users hold: texts in, unit vectors out, zero-shot or few-shot.

The examples of a task come first in the prompt and attention is causal, so their keys and values are
computed once and shared by all queries of the task: few-shot costs little more than zero-shot, exactly.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icl_embed.errors import ModelError
from icl_embed.examples import Example
from icl_embed.model.attention import use_packed_attention
from icl_embed.model.backbone import encode_prefix, load_backbone, token_states
from icl_embed.model.batching import plan_batches
from icl_embed.model.dtype import resolve_device, resolve_dtype
from icl_embed.model.groups import Group
from icl_embed.model.packing import PrefixStates, pack
from icl_embed.model.pooling import pool
from icl_embed.model.settings import EmbedderSettings, read_settings
from icl_embed.prompts import PromptBuilder, Tokens
from icl_embed.store.files import sha256_of

Vectors = NDArray[np.float32]


@dataclasses.dataclass
class Embedder:
    """A causal language model that maps queries and passages to unit vectors.

    Examples::

        embedder = Embedder.load(folder)
        examples = [Example("capital of France", "Paris is the capital of France.")]
        queries = embedder.encode_queries(texts, instruction="Retrieve the answer.", examples=examples)
        scores = queries @ embedder.encode_passages(passages).T
    """

    model: Any
    tokenizer: Any
    settings: EmbedderSettings
    fingerprint: str = ""

    def __post_init__(self) -> None:
        """Build the prompt builder once."""
        self.model.eval()
        use_packed_attention(self.model)
        self.prompts = PromptBuilder(self.tokenizer, self.settings.prompt, self.settings.template)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        settings: EmbedderSettings | None = None,
    ) -> Embedder:
        """Load a model folder: one of ours, or any causal language model in Hugging Face format.

        ``settings`` replaces those saved with the model, e.g. to try an untrained model with other budgets.

        Raises
            ModelError: the folder is incomplete or not readable.
        """
        folder = Path(folder)
        place = resolve_device(device)
        model, tokenizer = load_backbone(folder, device=place, dtype=resolve_dtype(dtype, place))
        return cls(model, tokenizer, settings or read_settings(folder), fingerprint_of(folder))

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self.model.config.hidden_size)

    @property
    def can_share_prefix(self) -> bool:
        """Whether queries can continue one encoded prefix; a bidirectional one would see the query."""
        return self.settings.attention == "causal"

    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        instruction: str,
        examples: Sequence[Example] = (),
        batch_tokens: int = 8192,
        show_progress: bool = False,
    ) -> Vectors:
        """Vectors [N, D] of queries under a task's instruction and examples.

        Raises
            ModelError: a vector is not finite.
            ConfigError: the instruction leaves no room for a query.
        """
        prefix = self.prompts.prefix(instruction, examples).tokens
        tails = self.prompts.query_tails(instruction, texts)
        if not tails:
            return np.zeros((0, self.dimension), np.float32)
        if not self.can_share_prefix:
            return self._encode_groups([Group([tail], prefix) for tail in tails], batch_tokens, show_progress)
        with torch.inference_mode():
            shared = encode_prefix(self.model, prefix)
        return self._encode(tails, shared, batch_tokens, show_progress)

    def encode_passages(
        self, texts: Sequence[str], *, batch_tokens: int = 8192, show_progress: bool = False
    ) -> Vectors:
        """Vectors [N, D] of passages: raw text, no instruction, no examples.

        Raises
            ModelError: a vector is not finite.
        """
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        return self._encode(self.prompts.passages(texts), None, batch_tokens, show_progress)

    def _encode(
        self, rows: list[Tokens], shared: PrefixStates | None, batch_tokens: int, show_progress: bool
    ) -> Vectors:
        return self._encode_groups([Group([row]) for row in rows], batch_tokens, show_progress, shared)

    def _encode_groups(
        self,
        groups: list[Group],
        batch_tokens: int,
        show_progress: bool,
        shared: PrefixStates | None = None,
    ) -> Vectors:
        batches = plan_batches([group.num_tokens for group in groups], batch_tokens)
        vectors = np.empty((len(groups), self.dimension), np.float32)
        with torch.inference_mode():
            for batch in _with_progress(batches, show_progress):
                vectors[batch] = self._embed([groups[row] for row in batch], shared).cpu().numpy()
        if not np.isfinite(vectors).all():
            bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise ModelError(
                f"the vector of text {bad} is not finite; the model's weights or dtype are broken"
            )
        return vectors

    def embed_tokens(self, rows: Sequence[Tokens], shared: PrefixStates | None = None) -> Tensor:
        """Unit vectors [R, D] float32 of rows that all continue an encoded prefix, if there is one."""
        return self._embed([Group(rows)], shared)

    def embed_groups(self, groups: Sequence[Group]) -> Tensor:
        """Unit vectors [R, D] float32 of the rows of all groups, in order, in one forward; differentiable."""
        return self._embed(groups, None)

    def _embed(self, groups: Sequence[Group], shared: PrefixStates | None) -> Tensor:
        causal = self.settings.attention == "causal"
        packed = pack(groups, causal=causal, shared=shared, device=self.model.device)
        return pool(token_states(self.model, packed), packed, self.settings.pooling)


def fingerprint_of(folder: Path) -> str:
    """A short hash of everything in a model folder that decides its vectors."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".safetensors", ".json"} and path.name != "manifest.json":
            digest.update(f"{path.name}:{sha256_of(path)}\n".encode())
    return digest.hexdigest()[:16]


def _with_progress(batches: list[list[int]], show: bool) -> Any:
    if not show:
        return batches
    from rich.progress import track

    return track(batches, description="encoding", transient=True)
