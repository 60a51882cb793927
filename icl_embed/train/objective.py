"""The embedder's training objective: in-context queries against passages, InfoNCE (paper sections 3.2–3.3).

Legend of tensor shapes: Q queries of this rank, P passages of all ranks, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from icl_embed.config import LABEL_KINDS, SYMMETRIC_KINDS, TrainConfig
from icl_embed.errors import TrainingError
from icl_embed.examples import Example
from icl_embed.model.batching import plan_batches
from icl_embed.model.embedder import Embedder
from icl_embed.model.shared_prefix import PrefixStates, encode_prefix
from icl_embed.train.batches import (
    Batch,
    choose_negatives,
    draw_examples,
    draw_same_label,
    make_batch,
    plan_steps,
)
from icl_embed.train.loss import info_nce, mask_false_negatives
from icl_embed.train.place import Place
from icl_embed.train.rows import Row, TrainingSet, text_hash


@dataclass
class TokenCount:
    """Tokens that went through the model in a step, with and without padding."""

    real: int = 0
    padded: int = 0


class EmbedderObjective:
    """Batches, prompts and loss of the embedder, for any step."""

    def __init__(
        self, embedder: Embedder, training_sets: Sequence[TrainingSet], config: TrainConfig, *, seed: int
    ) -> None:
        self.embedder = embedder
        self.model: torch.nn.Module = embedder.model
        self.training_sets = training_sets
        self.config = config
        self.seed = seed
        self.plan = plan_steps(
            training_sets, steps=config.optimizer.steps, batch_size=config.batch_size, seed=seed
        )
        self._refuse_prompts_without_room()

    def loss(self, step: int, place: Place) -> tuple[Tensor, dict[str, float]]:
        """This rank's share of the mean loss over the global batch, and sums for the log."""
        batch = make_batch(
            self.training_sets, self.plan[step], step=step, label_target=self.config.label_target
        )
        mine = place.share(len(batch.rows))
        count = TokenCount()
        queries_QD, sums = self._encode_queries(batch, mine, step, count)
        texts = [self._passage_texts(batch, row, step) for row in batch.rows]
        passages_PD = place.gather(self._encode_passages(batch, [texts[row] for row in mine], count))
        scores_QP = queries_QD @ passages_PD.T / self.config.temperature
        positive_Q, masked_QP = self._targets(batch, texts, mine, place.device)
        loss = info_nce(scores_QP, positive_Q, masked_QP) / len(batch.rows)
        hits = scores_QP.detach().masked_fill(masked_QP, -torch.inf).argmax(dim=1) == positive_Q
        sums |= {
            "queries": len(mine),
            "accuracy": float(hits.sum()),
            "tokens": count.real,
            "padded_tokens": count.padded,
        }
        return loss, sums

    def _encode_queries(
        self, batch: Batch, mine: range, step: int, count: TokenCount
    ) -> tuple[Tensor, dict[str, float]]:
        """Vectors of this rank's queries, each after its own examples or its group's."""
        size = self.config.examples.group_size if self.config.examples.sharing == "per_group" else 1
        vectors: list[Tensor] = []
        sequences: list[list[int]] = []
        sums = {"examples": 0.0, "examples_dropped": 0.0}
        for start in range(mine.start, mine.stop, size):
            group = range(start, start + size)
            examples = draw_examples(batch.rows, group, self.config.examples, seed=self.seed, step=step)
            prefix = self.embedder.prompts.prefix(batch.training_set.instruction, examples)
            _check_examples_used(examples, prefix.num_examples, prefix.num_dropped)
            sums["examples"] += prefix.num_examples * size
            sums["examples_dropped"] += prefix.num_dropped * size
            queries = [batch.rows[position].query for position in group]
            tails = self.embedder.prompts.query_tails(batch.training_set.instruction, queries)
            if size == 1:
                sequences.append(prefix.tokens + tails[0])
            else:
                count.real += len(prefix.tokens)
                count.padded += len(prefix.tokens)
                vectors.append(self._encode(tails, count, encode_prefix(self.model, prefix.tokens)))
        return (torch.cat(vectors) if vectors else self._encode(sequences, count)), sums

    def _passage_texts(self, batch: Batch, row: Row, step: int) -> list[str]:
        """The positive, then the hard negatives; always the same number, so that ranks can exchange them."""
        if batch.training_set.kind in LABEL_KINDS and not batch.targets_labels:
            return [draw_same_label(batch.training_set, row, seed=self.seed, step=step)]
        wanted = self.config.num_negatives
        negatives = choose_negatives(row, wanted, seed=self.seed, step=step)
        # A row without any negative repeats its positive, which its own mask then hides.
        return [row.positive, *(negatives or [row.positive] * wanted)]

    def _encode_passages(self, batch: Batch, texts: list[list[str]], count: TokenCount) -> Tensor:
        """[Q · group, D]; each distinct text is encoded once.

        Texts of symmetric tasks are wrapped as zero-shot queries, as they will be at inference
        (paper section 3.3); label texts and passages stay raw.
        """
        flat = [text for group in texts for text in group]
        distinct = list(dict.fromkeys(flat))
        if batch.training_set.kind in SYMMETRIC_KINDS and not batch.targets_labels:
            head = self.embedder.prompts.prefix(batch.training_set.instruction).tokens
            tails = self.embedder.prompts.query_tails(batch.training_set.instruction, distinct)
            vectors = self._encode([head + tail for tail in tails], count)
        else:
            vectors = self._encode(self.embedder.prompts.passages(distinct), count)
        where = {text: number for number, text in enumerate(distinct)}
        return vectors[[where[text] for text in flat]]

    def _encode(
        self, sequences: list[list[int]], count: TokenCount, prefix: PrefixStates | None = None
    ) -> Tensor:
        """Vectors in the order given, computed in length-sorted batches so that little is padding."""
        lengths = [len(sequence) for sequence in sequences]
        batches = plan_batches(
            lengths, self.config.batch_tokens, extra_tokens=prefix.num_tokens if prefix else 0
        )
        parts = [self.embedder.embed_tokens([sequences[row] for row in rows], prefix) for rows in batches]
        order = torch.tensor([row for rows in batches for row in rows])
        count.real += sum(lengths)
        count.padded += sum(len(rows) * lengths[rows[0]] for rows in batches)
        return torch.cat(parts)[torch.argsort(order)]

    def _targets(
        self, batch: Batch, texts: list[list[str]], mine: range, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Column of each query's positive and the [Q, P] mask of passages that are no negatives."""
        group = len(texts[0])
        rows = batch.rows
        labels = torch.tensor([text_hash(row.label) for row in rows])
        queries = torch.tensor([text_hash(row.query) for row in rows])
        passages = torch.tensor([text_hash(text) for texts_of_row in texts for text in texts_of_row])
        owner = torch.arange(len(rows)).repeat_interleave(group)
        local = torch.arange(mine.start, mine.stop)
        masked = mask_false_negatives(
            query_Q=queries[local],
            positive_Q=passages[local * group],
            label_Q=labels[local],
            passage_P=passages,
            owner_query_P=queries[owner],
            owner_label_P=labels[owner],
            is_positive_P=torch.arange(len(passages)) % group == 0,
        )
        if batch.targets_labels:
            # In-batch negatives are off for label targets (paper section 3.3): a label would count twice.
            masked |= owner[None, :] != local[:, None]
        masked[torch.arange(len(local)), local * group] = False
        return (local * group).to(device), masked.to(device)

    def _refuse_prompts_without_room(self) -> None:
        """The reference trains without any example at its own documented settings; we refuse to start."""
        if self.config.examples.sharing == "per_group" and not self.embedder.can_share_prefix:
            raise TrainingError(
                "examples.sharing = per_group needs causal attention and last-token pooling; use per_query"
            )
        budgets = self.embedder.prompts.budgets
        room = budgets.total_tokens - budgets.query_tokens
        if self.config.examples.max_per_query and room < 1:
            raise TrainingError(
                f"prompt.total_tokens ({budgets.total_tokens}) leaves no room for examples beside "
                f"prompt.query_tokens ({budgets.query_tokens}), but examples.max_per_query is "
                f"{self.config.examples.max_per_query}; raise total_tokens or set max_per_query=0"
            )


def _check_examples_used(examples: Sequence[Example], used: int, dropped: int) -> None:
    if used + dropped != len(examples):
        raise TrainingError(f"{len(examples)} examples were drawn, {used} used and {dropped} dropped")
