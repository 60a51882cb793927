"""The embedder's training objective: in-context queries against passages (paper sections 3.2–3.3).

Legend of tensor shapes: N prompts of this rank, Q queries of this rank, P passages that are scored, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from icl_embed.config import TrainConfig
from icl_embed.errors import TrainingError
from icl_embed.launch.worker import beat
from icl_embed.model.embedder import Embedder
from icl_embed.train.gradient_cache import cached_loss
from icl_embed.train.loss import distillation, info_nce, leading_dimensions
from icl_embed.train.micro_batches import MicroBatch, plan_micro_batches, repeat_shortest
from icl_embed.train.place import Place
from icl_embed.train.prepare import PreparedStep
from icl_embed.train.step import LossInParts
from icl_embed.train.targets import Targets, make_targets


class EmbedderObjective:
    """Forward passes and loss of the embedder, for any step."""

    def __init__(
        self, embedder: Embedder, prepare: Callable[[int], PreparedStep], config: TrainConfig
    ) -> None:
        """Raises TrainingError if the model cannot do what the config asks for."""
        self.embedder = embedder
        self.model: torch.nn.Module = embedder.model
        self.rates: Mapping[str, float] = {}
        self._prepare = prepare
        self._config = config
        self._meter = TokenMeter(embedder.model)
        self._shares = embedder.settings.attention == "causal"
        _refuse_impossible(embedder, config)

    def loss(self, step: int, place: Place) -> tuple[Tensor | LossInParts, dict[str, float]]:
        """This rank's share of the mean loss over the global batch, and sums for the log.

        ``padded_tokens`` are counted where they enter the model during the pass, so they are known here for
        the plain step, and for the gradient cache from its pass without a graph.
        """
        prepared = self._prepare(step)
        batches = self._micro_batches(prepared, place)
        mine = place.share(len(prepared.candidates))
        targets = make_targets(
            prepared, mine, all_ranks=self._config.cross_device_negatives, device=place.device
        )
        sums: dict[str, float] = {
            "queries": prepared.num_queries,
            "examples": prepared.num_examples,
            "examples_dropped": prepared.num_dropped,
            "tokens": sum(batch.num_tokens for batch in batches if batch.positions),
        }
        loss_of = partial(self._loss_of, batches, prepared, targets, place, sums)
        before = self._meter.tokens
        loss: Tensor | LossInParts
        if self._config.gradient_cache:
            loss = cached_loss(self._encode, batches, loss_of, place.device)
        else:
            loss = loss_of([self._encode(batch) for batch in batches])
        sums["padded_tokens"] = self._meter.tokens - before
        return loss, sums

    def _encode(self, batch: MicroBatch) -> Tensor:
        vectors = self.embedder.embed_groups(batch.groups)
        beat()
        return vectors

    def _micro_batches(self, prepared: PreparedStep, place: Place) -> list[MicroBatch]:
        batches = plan_micro_batches(prepared.prompts, self._config.batch_tokens, share_prefixes=self._shares)
        if self._config.optimizer.zero_stage >= 2:
            batches = repeat_shortest(batches, place.largest(len(batches)))
        return batches

    def _loss_of(
        self,
        batches: Sequence[MicroBatch],
        prepared: PreparedStep,
        targets: Targets,
        place: Place,
        sums: dict[str, float],
        vectors: Sequence[Tensor],
    ) -> Tensor:
        """The loss of the vectors of all micro-batches; adds its own figures to ``sums``."""
        order = torch.tensor([position for batch in batches for position in batch.positions])
        real = [one for one, batch in zip(vectors, batches, strict=True) if batch.positions]
        idle = [one for one, batch in zip(vectors, batches, strict=True) if not batch.positions]
        vectors_ND = torch.cat(real)[torch.argsort(order).to(place.device)]
        queries_QD = vectors_ND[: prepared.num_queries]
        passages_PD = vectors_ND[prepared.num_queries :][list(prepared.passage_of)]
        if self._config.cross_device_negatives:
            passages_PD = place.gather(passages_PD)
        dims = self._config.matryoshka_dims
        losses = [
            self._loss_at(queries, passages, targets, sums)
            for queries, passages in zip(
                leading_dimensions(queries_QD, dims), leading_dimensions(passages_PD, dims), strict=True
            )
        ]
        loss = torch.stack(losses).mean() / len(prepared.candidates)
        # Idle passes count for nothing, but their backward pass must take place on every rank.
        return loss + sum((0.0 * one.sum() for one in idle), torch.zeros_like(loss))

    def _loss_at(
        self, queries_QD: Tensor, passages_PD: Tensor, targets: Targets, sums: dict[str, float]
    ) -> Tensor:
        """The summed loss at one width. The last call, at full width, leaves its figures in ``sums``."""
        scores_QP = queries_QD @ passages_PD.T / self._config.temperature
        choices_Q = (~targets.masked).sum(dim=1)
        sums["without_negative"] = float((choices_Q == 1).sum())
        sums["chance_loss"] = float(choices_Q.log().sum())  # of a model that tells no passages apart
        loss = info_nce(scores_QP, targets.positive, targets.masked)
        hits = scores_QP.detach().masked_fill(targets.masked, -torch.inf).argmax(dim=1)
        sums["accuracy"] = float((hits == targets.positive).sum())
        if targets.teacher is not None and self._config.distillation_weight:
            # A hard negative that repeats the positive is no negative for the teacher either.
            masked_QG = targets.masked.gather(1, targets.own)
            taught = distillation(
                scores_QP.gather(1, targets.own), targets.teacher.masked_fill(masked_QG, torch.nan)
            )
            sums["distillation"] = taught.item()
            loss = loss + self._config.distillation_weight * taught
        return loss


class TokenMeter:
    """Counts the tokens that really enter a model, padding included."""

    def __init__(self, model: Any) -> None:
        self.tokens = 0
        model.get_input_embeddings().register_forward_hook(self._count)

    def _count(self, _module: torch.nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        self.tokens += inputs[0].numel()


def _refuse_impossible(embedder: Embedder, config: TrainConfig) -> None:
    examples = config.examples
    if examples.sharing != "per_query" and embedder.settings.attention != "causal":
        raise TrainingError(
            f"examples.sharing = {examples.sharing} needs causal attention: under bidirectional attention "
            "the examples see the query, so no two queries have the same prefix; use per_query"
        )
    too_wide = [width for width in config.matryoshka_dims if width > embedder.dimension]
    if too_wide:
        raise TrainingError(
            f"train.matryoshka_dims asks for {too_wide[0]} dimensions, but the model has {embedder.dimension}"
        )
