"""Training the reranker: every head ranks the positive first and imitates the full-depth, full-width model.

Paper, appendix D: contrastive cross-entropy over one positive and n hard negatives, a random width per step,
all depth heads at once, and self-distillation from the final head. The teacher's pass is uncompressed, so
that a compressed pass learns what it leaves out (the two-pass recipe of the Matryoshka re-ranker).

Legend of tensor shapes: H heads, N pairs of this rank, Q queries of this rank, G candidates per query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from icl_embed.config import RerankConfig
from icl_embed.model.batching import plan_batches
from icl_embed.rerank.compress import Rows, make_rows
from icl_embed.rerank.groups import draw_group, draw_ratio, plan_groups
from icl_embed.rerank.model import RerankerModel
from icl_embed.rerank.pair_tokens import PairBuilder, PairTokens
from icl_embed.rerank.saved import RerankerSettings
from icl_embed.rerank.shape import Shape
from icl_embed.train.place import Place
from icl_embed.train.rows import TrainingSet

ABSENT = -1e4  # score of a candidate that a shorter group does not have: probability 0, and no NaN in a KL


class RerankerObjective:
    """Groups, widths and loss of the reranker, for any step."""

    def __init__(
        self,
        model: RerankerModel,
        pairs: PairBuilder,
        training_sets: Sequence[TrainingSet],
        config: RerankConfig,
        settings: RerankerSettings,
        *,
        seed: int,
    ) -> None:
        self.model: torch.nn.Module = model
        self._reranker = model
        self._pairs = pairs
        self._config = config
        self._full = Shape(settings.head_layers[-1])
        self._compress_layers = settings.compress_layers
        self._seed = seed
        self._plan = plan_groups(
            training_sets, steps=config.optimizer.steps, batch_size=config.batch_size, seed=seed
        )

    def loss(self, step: int, place: Place) -> tuple[Tensor, dict[str, float]]:
        """The share of this rank in the mean loss over the global batch, and sums for the log."""
        rows = self._plan[step]
        groups = [
            draw_group(rows[number], rows, self._config, seed=self._seed, step=step)
            for number in place.share(len(rows))
        ]
        tokens = self._pairs.pairs([(group.query, text) for group in groups for text in group.passages])
        index_QG, real_QG = group_index([len(group.passages) for group in groups])
        shape = self.shape_of(step)

        def by_group(scores_HN: Tensor) -> Tensor:
            return scores_HN[:, index_QG].masked_fill(~real_QG.to(scores_HN.device), ABSENT)

        scores_HQG = by_group(self._score(tokens, shape))
        with torch.no_grad():
            uncompressed = (
                scores_HQG[-1:] if shape == self._full else by_group(self._score(tokens, self._full))
            )
            teacher_QG = uncompressed[-1].detach()
        # The mean over the global batch: this rank's part of the sum, over all its queries.
        share = len(groups) / len(rows)
        contrastive = contrastive_loss(scores_HQG) * share
        distillation = distillation_loss(scores_HQG, teacher_QG) * share
        final_QG = scores_HQG[-1].detach()
        sums = {
            "queries": len(groups),
            "accuracy": float((final_QG.argmax(dim=1) == 0).sum()),
            "contrastive_loss": contrastive.item(),
            "distillation_loss": distillation.item(),
            "compress_ratio": shape.compress_ratio / place.world_size,
            **self._token_counts(tokens),
        }
        return contrastive + self._config.distillation_weight * distillation, sums

    def shape_of(self, step: int) -> Shape:
        """Full depth, at the width drawn for a step."""
        ratio = draw_ratio(self._config.compress_ratios_trained, seed=self._seed, step=step)
        if ratio == 1 or not self._compress_layers:
            return self._full
        return Shape(self._full.cutoff_layer, ratio, self._compress_layers)

    def _score(self, tokens: Sequence[PairTokens], shape: Shape) -> Tensor:
        """Scores [H, N] at all heads, in length-sorted batches.

        A step that fits into one batch keeps its activations. A larger one recomputes them batch by batch
        in the backward pass, so that memory is bounded by ``batch_tokens`` whatever the batch size.
        """
        batches = self._batches(tokens)
        parts = []
        for batch in batches:
            rows = make_rows([tokens[number] for number in batch], self._pairs.pad)
            if len(batches) > 1 and torch.is_grad_enabled():
                parts.append(checkpoint(self._score_rows, rows, shape, use_reentrant=False))
            else:
                parts.append(self._score_rows(rows, shape))
        order = torch.tensor([number for batch in batches for number in batch])
        scores: Tensor = torch.cat(parts, dim=1)[:, torch.argsort(order)]
        return scores

    def _score_rows(self, rows: Rows, shape: Shape) -> Tensor:
        return torch.stack([scores for _, scores in self._reranker.walk(rows, shape)])

    def _batches(self, tokens: Sequence[PairTokens]) -> list[list[int]]:
        return plan_batches([len(pair) for pair in tokens], self._config.batch_tokens)

    def _token_counts(self, tokens: Sequence[PairTokens]) -> dict[str, Any]:
        padded = sum(len(batch) * len(tokens[batch[0]]) for batch in self._batches(tokens))
        return {"tokens": sum(len(pair) for pair in tokens), "padded_tokens": padded}


def group_index(sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Where the candidates of each group lie in the flat list: indices [Q, G], and which are real [Q, G]."""
    size_Q1 = torch.tensor(sizes)[:, None]
    start_Q1 = size_Q1.cumsum(dim=0) - size_Q1
    spot_1G = torch.arange(max(sizes))[None, :]
    return start_Q1 + spot_1G.minimum(size_Q1 - 1), spot_1G < size_Q1


def contrastive_loss(scores_HQG: Tensor) -> Tensor:
    """Mean cross-entropy of the positive (column 0) over heads and queries."""
    flat = scores_HQG.flatten(0, 1)
    return F.cross_entropy(flat, torch.zeros(len(flat), dtype=torch.long, device=flat.device))


def distillation_loss(scores_HQG: Tensor, teacher_QG: Tensor) -> Tensor:
    """Mean KL(teacher ‖ head) over heads and queries; no gradient reaches the teacher."""
    student = F.log_softmax(scores_HQG, dim=-1)
    teacher = F.log_softmax(teacher_QG.detach(), dim=-1).expand_as(student)
    divergence = F.kl_div(student, teacher, log_target=True, reduction="sum")
    return divergence / (scores_HQG.shape[0] * scores_HQG.shape[1])
