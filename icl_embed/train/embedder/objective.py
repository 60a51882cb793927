"""The embedder's training objective: in-context queries against passages (paper sections 3.2 and 3.3).

The loss needs the vectors of the whole batch, but a vector's graph is only needed while its own gradient
flows. So the vectors are made once without a graph; the loss on them gives the gradient of every vector; and
then each micro-batch is encoded again, with a graph, and back-propagated alone. Random numbers (dropout) are
replayed, so the second pass computes what the first did and the gradients are those of the plain step.

Legend of tensor shapes: N prompts and Q queries of this rank, P passages that are scored (of all ranks, or of
this one), G candidates per query, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from icl_embed.config import TrainConfig
from icl_embed.errors import TrainingError
from icl_embed.launch.worker import beat
from icl_embed.model.cpu.heap import give_back_freed_memory
from icl_embed.model.embedder import Embedder
from icl_embed.train.distributed import Place
from icl_embed.train.embedder.loss import (
    distillation,
    imitation,
    info_nce,
    leading_dimensions,
    mask_false_negatives,
)
from icl_embed.train.embedder.prepare import MicroBatch, PreparedStep, plan_micro_batches, repeat_shortest
from icl_embed.train.embedder.teacher import EmbedderTeacher
from icl_embed.train.loop import LossInParts
from icl_embed.train.rows import text_hash

Encode = Callable[[MicroBatch], Tensor]


def cached_loss(
    encode: Encode,
    batches: Sequence[MicroBatch],
    loss_of: Callable[[Sequence[Tensor]], Tensor],
    device: torch.device,
) -> LossInParts:
    """The loss of all micro-batches, with one part to back-propagate for each of them.

    Parameters
        encode: vectors [R, D] of a micro-batch.
        loss_of: the loss, given the vectors of each micro-batch.
    """
    states, leaves = [], []
    for batch in batches:
        states.append(_random_state(device))
        with torch.no_grad():
            leaves.append(encode(batch).requires_grad_())
    value = loss_of(leaves)
    value.backward()  # type: ignore[no-untyped-call]

    def part(number: int) -> Tensor:
        if device.type == "cpu":  # else the process grows with the number of parts: by 1.4 in 8 times as many
            give_back_freed_memory()
        _replay(states[number], device)
        vectors = encode(batches[number])
        gradient = leaves[number].grad
        return (vectors * (torch.zeros_like(vectors) if gradient is None else gradient)).sum()

    return LossInParts(value.detach(), [partial(part, number) for number in range(len(batches))])


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _replay(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


@dataclass(frozen=True)
class Targets:
    """The answers to one rank's scores [Q, P].

    Attributes
        positive: [Q] column of each query's positive.
        masked: [Q, P] passages that must not count as negatives.
        own: [Q, G] columns of each query's own candidates, the positive first.
        teacher: [Q, G] the teacher's scores of those, NaN where there is none; None to distil nothing.
        alike: [Q, P] what a teacher of embeddings says of all of them; None to imitate nobody.
    """

    positive: Tensor
    masked: Tensor
    own: Tensor
    teacher: Tensor | None
    alike: Tensor | None = None


def make_targets(step: PreparedStep, mine: range, *, all_ranks: bool, device: torch.device) -> Targets:
    """Targets of the queries ``mine`` (positions in the batch).

    Parameters
        all_ranks: whether the scored passages are those of the whole batch, or of ``mine`` alone.
    """
    scored = range(len(step.candidates)) if all_ranks else mine
    group = len(step.candidates[0])
    local = torch.arange(len(mine)) + (mine.start - scored.start)  # my queries among the scored rows
    own_QG = local[:, None] * group + torch.arange(group)[None, :]
    queries = torch.tensor(step.query_hashes)[scored.start : scored.stop]
    labels = torch.tensor(step.label_hashes)[scored.start : scored.stop]
    passages = torch.tensor([text_hash(one.source) for row in scored for one in step.candidates[row]])
    owner = torch.arange(len(scored)).repeat_interleave(group)
    masked = mask_false_negatives(
        query_Q=queries[local],
        positive_Q=passages[local * group],
        label_Q=labels[local],
        passage_P=passages,
        owner_query_P=queries[owner],
        owner_label_P=labels[owner],
        is_positive_P=torch.arange(len(passages)) % group == 0,
    )
    if not step.rule.in_batch_negatives:
        masked |= owner[None, :] != local[:, None]
    masked[torch.arange(len(local)), local * group] = False
    teacher = _teacher_scores(step, mine)
    return Targets(
        positive=(local * group).to(device),
        masked=masked.to(device),
        own=own_QG.to(device),
        teacher=None if teacher is None else teacher.to(device),
    )


def _teacher_scores(step: PreparedStep, mine: range) -> Tensor | None:
    """None on all ranks alike: where the rule forbids it, or no row of the whole batch has a score."""
    if not step.rule.distil or all(row[0].score is None for row in step.candidates):
        return None
    return torch.tensor(
        [
            [math.nan if one.score is None else one.score for one in step.candidates[position]]
            for position in mine
        ]
    )


class EmbedderObjective:
    """Forward passes and loss of the embedder, for any step."""

    def __init__(
        self,
        embedder: Embedder,
        prepare: Callable[[int], PreparedStep],
        config: TrainConfig,
        teacher: EmbedderTeacher | None = None,
    ) -> None:
        """Raises TrainingError if the model cannot do what the config asks for."""
        self.embedder = embedder
        self.model: torch.nn.Module = embedder.model
        self.rates: Mapping[str, float] = {}
        self._prepare = prepare
        self._teacher = teacher
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
        if self._teacher is not None and self._config.distillation_weight:
            alike = self._teacher.scores(prepared, mine, place, all_ranks=self._config.cross_device_negatives)
            targets = replace(targets, alike=alike)
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
        config, masked = self._config, targets.masked
        scores_QP = queries_QD @ passages_PD.T / config.temperature
        choices_Q = (~masked).sum(dim=1)
        sums["without_negative"] = float((choices_Q == 1).sum())
        sums["chance_loss"] = float(choices_Q.log().sum())  # of a model that tells no passages apart
        loss = info_nce(scores_QP, targets.positive, masked)
        hits = scores_QP.detach().masked_fill(masked, -torch.inf).argmax(dim=1)
        sums["accuracy"] = float((hits == targets.positive).sum())
        if targets.alike is not None:
            taught = imitation(scores_QP, targets.alike, masked)
            sums["imitation"] = taught.item()
            loss = loss + config.distillation_weight * taught
        if targets.teacher is not None and config.distillation_weight:
            # A hard negative that repeats the positive is no negative for the teacher either.
            masked_QG = masked.gather(1, targets.own)
            taught = distillation(
                scores_QP.gather(1, targets.own), targets.teacher.masked_fill(masked_QG, torch.nan)
            )
            sums["distillation"] = taught.item()
            loss = loss + config.distillation_weight * taught
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
