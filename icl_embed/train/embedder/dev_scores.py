"""Dev queries without and with examples against their passages, while the model is in training.

The prompts are those of the published model, and all queries of a data set share a prefix. All ranks share
the work: micro-batches are dealt out by turns, equally many to each, as ZeRO 3 wants it.

Legend of tensor shapes: Q queries, P passages, N prompts, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from icl_embed.config import LABEL_KINDS, SYMMETRIC_KINDS, DevConfig
from icl_embed.errors import TrainingError
from icl_embed.launch.worker import beat
from icl_embed.model.embedder import Embedder
from icl_embed.prompts import PromptBuilder
from icl_embed.train.dev_watch import ShotScores
from icl_embed.train.distributed import Place
from icl_embed.train.embedder.dev_sets import DevSet
from icl_embed.train.embedder.prepare import Prompt, plan_micro_batches, repeat_shortest

Metric = Callable[[Tensor], Tensor]

METRICS: Mapping[str, Metric] = {
    "mrr": lambda ahead_Q: 1.0 / (1.0 + ahead_Q),
    "accuracy": lambda ahead_Q: (ahead_Q == 0).double(),
}


def count_ahead(similar_QP: Tensor, relevant_QP: Tensor, ranked_QP: Tensor) -> Tensor:
    """How many passages come before a query's best positive [Q] float64; one as similar as that does.

    So a model whose vectors are all the same gets nothing for it.

    Parameters
        relevant_QP: which passages are positives, one at least per query.
        ranked_QP: which passages a query ranks.
    """
    best_Q = similar_QP.masked_fill(~relevant_QP, -torch.inf).amax(dim=1)
    return ((similar_QP >= best_Q[:, None]) & ranked_QP & ~relevant_QP).sum(dim=1).double()


@dataclass(frozen=True)
class Prompts:
    """The prompts of a data set in one setting, its queries first."""

    queries: Sequence[Prompt]
    passages: Sequence[Prompt]


def make_prompts(builder: PromptBuilder, one: DevSet, *, shots: int) -> Prompts:
    """The prompts of a data set; the second texts of pairs are queries too, as in training and use.

    Raises
        TrainingError: no example fits into the prompt.
    """
    prefix = builder.prefix(one.instruction, one.examples if shots else ())
    if shots and not prefix.num_examples:
        raise TrainingError(
            f"none of the {shots} examples of {one.name} fits into model.prompt.total_tokens "
            f"({builder.budgets.total_tokens}); raise it, or set train.dev.every = 0"
        )

    def asked(texts: Sequence[str]) -> list[Prompt]:
        tails = builder.query_tails(one.instruction, texts)
        return [Prompt(tuple(prefix.tokens), tail, prefix.demonstrations) for tail in tails]

    both_sides = one.kind in SYMMETRIC_KINDS and one.kind not in LABEL_KINDS
    plain = [Prompt((), tokens) for tokens in builder.passages(one.passages)]
    return Prompts(asked(one.queries), asked(one.passages) if both_sides else plain)


class DevScorer:
    """Scores a model that is in training; nothing of the training is changed by it."""

    def __init__(
        self,
        embedder: Embedder,
        prompts: PromptBuilder,
        dev_sets: Sequence[DevSet],
        config: DevConfig,
        *,
        batch_tokens: int,
        place: Place,
    ) -> None:
        """Tokenise everything once.

        Parameters
            prompts: of the model as it is published.
            batch_tokens: tokens per forward pass.

        Raises
            TrainingError: as ``make_prompts``.
        """
        self._embedder = embedder
        self._batch_tokens = batch_tokens
        self._metric = METRICS[config.metric]
        self._place = place
        self._sets = [
            (one, make_prompts(prompts, one, shots=0), make_prompts(prompts, one, shots=config.shots))
            for one in dev_sets
        ]

    def __call__(self) -> Mapping[str, ShotScores]:
        """The scores of each data set; every rank must call it.

        Raises
            TrainingError: a vector is not finite.
        """
        with _resting(self._embedder):
            return {one.name: self._scores(one, zero, few) for one, zero, few in self._sets}

    def _scores(self, one: DevSet, zero: Prompts, few: Prompts) -> ShotScores:
        settings = (zero, few)
        distinct = [zero.passages] if zero.passages == few.passages else [zero.passages, few.passages]
        parts = [zero.queries, few.queries, *distinct]
        vectors = self._encode([prompt for part in parts for prompt in part])
        if not torch.isfinite(vectors).all():
            raise TrainingError(
                f"a vector of {one.name} is not finite; lower train.optimizer.learning_rate and go back to "
                "the last checkpoint"
            )
        queries_and_passages = torch.split(vectors, [len(part) for part in parts])
        relevant, ranked = _masks(one)
        found = []
        for number in range(len(settings)):
            queries_QD, passages_PD = (
                queries_and_passages[number],
                queries_and_passages[2:][number % len(distinct)],
            )
            ahead_Q = count_ahead(queries_QD @ passages_PD.T, relevant, ranked)
            found.append(self._metric(ahead_Q).mean().item())
        return ShotScores(*found)

    def _encode(self, prompts: Sequence[Prompt]) -> Tensor:
        """Unit vectors [N, D] of prompts, on the CPU of every rank."""
        ranks, embedder = self._place.world_size, self._embedder
        shares = embedder.settings.attention == "causal"
        batches = plan_micro_batches(prompts, self._batch_tokens, share_prefixes=shares)
        batches = repeat_shortest(batches, -(-len(batches) // ranks) * ranks)
        vectors = torch.zeros(len(prompts), embedder.dimension, device=self._place.device)
        for batch in batches[self._place.rank :: ranks]:
            found = embedder.embed_groups(batch.groups)
            beat()
            if batch.positions:
                vectors[list(batch.positions)] = found
        return self._place.sum(vectors).cpu()


@contextmanager
def _resting(embedder: Embedder) -> Iterator[None]:
    """No gradient and no dropout; random numbers go on as if nothing had been."""
    model = embedder.model
    devices = [embedder.device] if embedder.device.type == "cuda" else []
    was_training = model.training
    with torch.no_grad(), torch.random.fork_rng(devices):
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)


def _masks(one: DevSet) -> tuple[Tensor, Tensor]:
    """Positives, and what is ranked [Q, P]: never the query itself."""
    size = (len(one.queries), len(one.passages))
    relevant = torch.zeros(size, dtype=torch.bool)
    ranked = torch.full(size, one.candidates is None)
    for row, positives in enumerate(one.relevant):
        relevant[row, list(positives)] = True
        if one.candidates is not None:
            ranked[row, list(one.candidates[row])] = True
    number_of = {text: number for number, text in enumerate(one.passages)}
    for row, query in enumerate(one.queries):
        if query in number_of:
            ranked[row, number_of[query]] = False
    return relevant, ranked
