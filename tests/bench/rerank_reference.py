"""The reference way to run the same model: every pair whole, padded to the longest of its batch, at full depth.

As ``FlagEmbedding``'s lightweight reranker scores (spec of the released code): pairs are sorted by length, cut into
batches of a fixed number, padded on the right with an attention mask, sent through the backbone's own forward, and the
head reads a state of every position, of which the last real token's is kept. No query is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoModel

from icl_embed.rerank.folder import HEADS_NAME
from icl_embed.rerank.pairs import PairTokens

ATTENTION = "sdpa"  # transformers' default
PAD = 0  # masked, so any token will do


class ReferenceReranker:
    """The decoder and last head of a reranker folder, run by transformers' own forward."""

    def __init__(self, folder: Path, *, dtype: torch.dtype) -> None:
        self.model: Any = AutoModel.from_pretrained(
            folder, dtype=dtype, attn_implementation=ATTENTION, trust_remote_code=False
        ).eval()
        layers = self.model.config.num_hidden_layers
        self._head = load_file(folder / HEADS_NAME)[f"layer_{layers}"].float()
        self._softcap = getattr(self.model.config, "final_logit_softcapping", None)

    def score(self, pairs: Sequence[PairTokens], *, batch_size: int) -> NDArray[np.float32]:
        """Scores [N] in the order of the pairs."""
        order = sorted(range(len(pairs)), key=lambda number: -len(pairs[number]))
        scores = np.empty(len(pairs), np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                numbers = order[start : start + batch_size]
                scores[numbers] = self._score([pairs[number] for number in numbers]).numpy()
        return scores

    def _score(self, pairs: Sequence[PairTokens]) -> torch.Tensor:
        rows = [[*pair.query, *pair.passage, *pair.after] for pair in pairs]
        longest = max(map(len, rows))
        tokens = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(longest)[None, :] < lengths[:, None]).long()
        states_BLD = self.model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        scores_BL = states_BLD.float() @ self._head
        if self._softcap:
            scores_BL = self._softcap * torch.tanh(scores_BL / self._softcap)
        return scores_BL[torch.arange(len(rows)), lengths - 1]
