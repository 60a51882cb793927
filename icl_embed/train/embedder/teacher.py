"""An embedder as the teacher of another: how alike texts are to it, for all pairs of a step.

It sees the bare texts, as it would in use: no instruction, no examples. What it says of the passages of
*other* queries is worth most, so it is asked during training, for the texts that meet in a step; a table of
scores would hold every query against every passage. A small teacher costs a few percent of a step.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from icl_embed.config import Kind
from icl_embed.model.sentence_transformer import SentenceTransformerEncoder
from icl_embed.train.distributed import Place
from icl_embed.train.embedder.prepare import PreparedStep


@dataclass(frozen=True)
class EmbedderTeacher:
    """A sentence-transformers model that knows which kinds of tasks it may teach.

    Attributes
        temperature: its similarities are divided by this.
    """

    encoder: SentenceTransformerEncoder
    kinds: Collection[Kind]
    temperature: float

    @classmethod
    def load(
        cls, folder: Path, *, kinds: Collection[Kind], temperature: float, place: Place
    ) -> EmbedderTeacher:
        """Load it on the device of a rank.

        Raises
            ModelError: the folder is not such a model.
        """
        return cls(SentenceTransformerEncoder.load(folder, device=str(place.device)), kinds, temperature)

    def scores(self, step: PreparedStep, mine: range, place: Place, *, all_ranks: bool) -> Tensor | None:
        """Similarity over temperature [Q, P] of this rank's queries to the scored passages.

        None for a kind of task that it does not teach, and where labels have names that it cannot know;
        on all ranks alike.

        Parameters
            mine: positions of this rank's queries in the batch.
            all_ranks: whether the passages are those of the whole batch, or of ``mine`` alone.
        """
        if step.kind not in self.kinds or step.has_names:
            return None
        texts = [one.source for position in mine for one in step.candidates[position]]
        distinct = list(dict.fromkeys(texts))
        number_of = {text: number for number, text in enumerate(distinct)}
        vectors = self._vectors(distinct, place)[[number_of[text] for text in texts]]
        passages_PD = place.gather(vectors) if all_ranks else vectors
        queries_QD = self._vectors([step.queries[position] for position in mine], place)
        return queries_QD @ passages_PD.T / self.temperature

    @torch.no_grad()
    def _vectors(self, texts: Sequence[str], place: Place) -> Tensor:
        vectors = torch.from_numpy(self.encoder.encode_passages(texts)).to(place.device)
        return torch.nn.functional.normalize(vectors, dim=1)
