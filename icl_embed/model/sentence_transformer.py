"""A sentence-transformers model as an encoder: the fixed points that a score table needs.

It takes no examples, and its prompts are its own: whatever its configuration calls ``query`` and
``document``. Vectors are left as the model gives them.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icl_embed.errors import EvaluationError, ModelError
from icl_embed.examples import Example
from icl_embed.model.cached_encoding import Vectors
from icl_embed.prompts import PromptBuilder, clean

MODULES_NAME = "modules.json"
UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle")


@dataclass(frozen=True)
class SentenceTransformerEncoder:
    """An ``Encoder`` without prompts of ours."""

    model: Any

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: str = "float32") -> SentenceTransformerEncoder:
        """Load a folder, with no code of its own and nothing from the network.

        Raises
            ModelError: the library is not installed, or the folder is not such a model, not readable, or
                holds weights only as pickles.
        """
        try:
            library = importlib.import_module("sentence_transformers")
        except ImportError as error:
            raise ModelError(
                f"{folder} is a sentence-transformers model, and that package is not installed; "
                "pip install sentence-transformers"
            ) from error
        refuse_pickles(folder)
        try:
            model = library.SentenceTransformer(
                str(folder),
                device=device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": dtype},
            )
        except (OSError, ValueError, RuntimeError, KeyError, AttributeError, ImportError) as error:
            raise ModelError(
                f"{folder} cannot be loaded by sentence-transformers: {error}; copy it again from its source"
            ) from error
        return cls(model)

    @property
    def prompts(self) -> PromptBuilder | None:
        """None: its prompts are its own."""
        return None

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self.model.get_embedding_dimension())

    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        instruction: str,
        examples: Sequence[Example] = (),
        batch_tokens: int = 8192,
        show_progress: bool = False,
    ) -> Vectors:
        """Vectors [N, D] of queries; the instruction is not shown to the model.

        Raises
            EvaluationError: it is asked with examples.
        """
        if examples:
            raise EvaluationError("a sentence-transformers model takes no examples; ask it with shots 0")
        return self._encode(self.model.encode_query, texts, batch_tokens, show_progress)

    def encode_passages(
        self, texts: Sequence[str], *, batch_tokens: int = 8192, show_progress: bool = False
    ) -> Vectors:
        """Vectors [N, D] of passages."""
        return self._encode(self.model.encode_document, texts, batch_tokens, show_progress)

    def _encode(self, encode: Any, texts: Sequence[str], batch_tokens: int, show_progress: bool) -> Vectors:
        longest = self.model.max_seq_length or 512
        vectors = encode(
            [clean(text) for text in texts],
            batch_size=max(1, batch_tokens // longest),
            show_progress_bar=show_progress,
            convert_to_numpy=True,
        )
        return np.asarray(vectors, np.float32).reshape(len(texts), self.dimension)


def is_sentence_transformer(folder: Path) -> bool:
    """Whether a folder lists the modules of a sentence-transformers model."""
    return (folder / MODULES_NAME).is_file()


def refuse_pickles(folder: Path) -> None:
    """Weights must be safetensors: torch's own format runs code when it is read.

    Raises
        ModelError: a folder of weights without safetensors.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix in UNSAFE_SUFFIXES and not any(path.parent.glob("*.safetensors")):
            raise ModelError(
                f"{path} could run code when it is read, and there are no safetensors beside it; "
                "convert the model to safetensors and try again"
            )
