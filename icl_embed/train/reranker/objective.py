"""The reranker's objective: every head ranks the positive first and imitates those who know better.

Each term is a mean over heads and queries. The reference code sums over heads instead, which is the same loss
times their number: with AdamW only the weights of the terms relative to each other matter.

Legend of tensor shapes: H heads, Q queries of this rank, G candidates per query, the positive first.

Paper, appendix D: contrastive cross-entropy over one positive and n hard negatives, a random width per step,
all depth heads at once, and self-distillation from the final head of the same pass. Two recipes of the
Matryoshka re-ranker can be added: the final head of an extra pass without compression as the teacher, so that
a compressed pass learns what it leaves out, and the scores of an external teacher for every head.

Legend of tensor shapes: H heads, N pairs of this rank, Q queries of this rank, G candidates per query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from icl_embed.config import RerankConfig
from icl_embed.launch.worker import beat
from icl_embed.rerank.folder import RerankerSettings
from icl_embed.rerank.model import RerankerModel
from icl_embed.rerank.pairs import (
    PackedPairs,
    PairBatch,
    PairBuilder,
    PairTokens,
    pack_pairs,
    plan_pair_batches,
)
from icl_embed.rerank.shape import Shape
from icl_embed.train.distributed import Place
from icl_embed.train.embedder.loss import distillation
from icl_embed.train.plan import plan_steps
from icl_embed.train.reranker.batches import draw_group, draw_width, has_teacher
from icl_embed.train.rows import Row, TrainingSet

ABSENT = -1e4  # score of a candidate that a shorter group does not have: probability 0, and no NaN in a KL


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


def teacher_loss(scores_HQG: Tensor, teacher_QG: Tensor) -> Tensor:
    """Mean KL(external teacher ‖ head) over heads and queries.

    Parameters
        teacher_QG: the teacher's scores, NaN where it gave none; those candidates are left out of both
            distributions, and a query without a scored negative counts as 0.
    """
    heads, queries = scores_HQG.shape[:2]
    taught = distillation(scores_HQG.flatten(0, 1), teacher_QG.repeat(heads, 1))
    return taught / (heads * queries)


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
        self.rates: Mapping[str, float] = {"heads.": config.head_rate}
        self._reranker = model
        self._pairs = pairs
        self._config = config
        self._full = Shape(settings.head_layers[-1])
        self._head_layers = settings.head_layers
        self._seed = seed
        self._training_sets = training_sets
        self._plan = plan_steps(
            training_sets,
            steps=config.optimizer.steps,
            batch_sizes=[config.batch_size] * len(training_sets),
            seed=seed,
            by_rows=config.optimizer.epochs > 0,
        )

    def loss(self, step: int, place: Place) -> tuple[Tensor, dict[str, float]]:
        """The share of this rank in the mean loss over the global batch, and sums for the log."""
        rows = self._rows_of(step)
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
        terms = {"contrastive": (self._config.contrastive_weight, contrastive_loss(scores_HQG))}
        if self._config.self_distillation != "none":
            with torch.no_grad():
                is_apart = self._config.self_distillation == "uncompressed" and shape != self._full
                final_QG = by_group(self._score(tokens, self._full))[-1] if is_apart else scores_HQG[-1]
            taught = distillation_loss(scores_HQG, final_QG)
            terms["distillation"] = (self._config.distillation_weight, taught)
        if self._config.teacher_weight and has_teacher(rows):
            given_N = torch.tensor([score for group in groups for score in group.scores])
            given_QG = given_N[index_QG].masked_fill(~real_QG, torch.nan).to(scores_HQG.device)
            terms["teacher"] = (self._config.teacher_weight, teacher_loss(scores_HQG, given_QG))
        # The mean over the global batch: this rank's part of the sum, over all its queries.
        share = len(groups) / len(rows)
        sums = {
            "queries": len(groups),
            "compress_ratio": shape.compress_ratio / place.world_size,
            **{f"{name}_loss": term.item() * share for name, (_, term) in terms.items()},
            **self._accuracy(scores_HQG.detach()),
            **self._token_counts(tokens),
        }
        total = torch.stack([weight * term for weight, term in terms.values()]).sum()
        return total * share, sums

    def _rows_of(self, step: int) -> list[Row]:
        """The rows of a step over all ranks."""
        chosen, numbers = self._plan[step]
        known = self._training_sets[chosen].rows
        rows = [known[number] for number in numbers]
        known.release()
        return rows

    def shape_of(self, step: int) -> Shape:
        """Full depth, at the width drawn for a step."""
        ratio, layers = draw_width(self._config, seed=self._seed, step=step)
        if ratio == 1 or not layers:
            return self._full
        return Shape(self._full.cutoff_layer, ratio, layers)

    def _accuracy(self, scores_HQG: Tensor) -> dict[str, float]:
        """How many queries each head answers with the positive, and the last one under a name of its own."""
        hits = (scores_HQG.argmax(dim=2) == 0).sum(dim=1).tolist()
        by_layer = {
            f"accuracy_layer_{layer}": float(count)
            for layer, count in zip(self._head_layers, hits, strict=True)
        }
        return {"accuracy": float(hits[-1]), **by_layer}

    def _score(self, tokens: Sequence[PairTokens], shape: Shape) -> Tensor:
        """Scores [H, N] at all heads; the candidates of a query share one copy of it.

        A step that fits into one batch keeps its activations. A larger one recomputes them batch by batch
        in the backward pass, so that memory is bounded by ``batch_tokens`` whatever the batch size.
        """
        batches = self._batches(tokens)
        device = next(self._reranker.parameters()).device
        parts = []
        for batch in batches:
            beat()
            packed = pack_pairs([tokens[number] for number in batch.numbers], device=device)
            if len(batches) > 1 and torch.is_grad_enabled():
                parts.append(checkpoint(self._score_packed, packed, shape, use_reentrant=False))
            else:
                parts.append(self._score_packed(packed, shape))
        order = torch.tensor([number for batch in batches for number in batch.numbers])
        scores: Tensor = torch.cat(parts, dim=1)[:, torch.argsort(order)]
        return scores

    def _score_packed(self, packed: PackedPairs, shape: Shape) -> Tensor:
        return torch.stack([scores for _, scores in self._reranker.walk(packed, shape)])

    def _batches(self, tokens: Sequence[PairTokens]) -> list[PairBatch]:
        return plan_pair_batches(tokens, self._config.batch_tokens)

    def _token_counts(self, tokens: Sequence[PairTokens]) -> dict[str, Any]:
        """Tokens that go through the layers: a shared query counts once, and there is no padding."""
        packed = sum(batch.num_tokens + len(batch.query) for batch in self._batches(tokens))
        return {"tokens": packed, "padded_tokens": packed}
