"""The teacher that scores training pairs, for the reranker's and the embedder's KL distillation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from icl_embed.config.base import RANKING_KINDS, Count, Kind, LocalPath, Section


class TeacherConfig(Section):
    """Who scores the training pairs, and who learns from the scores (paper sections 3.3 and D.1)."""

    source: Literal["none", "own", "reranker", "cross_encoder", "embedder"] = Field(
        "none",
        description="own: this run's reranker, trained without a teacher first; reranker: a local reranker "
        "folder, or a causal language model that answers Yes; cross_encoder: a sentence-transformers "
        "folder; embedder: another such folder, else evaluate.public, for the embedder alone",
    )
    folder: LocalPath | None = Field(None, description="the teacher's model folder; own has none")
    kinds: tuple[Kind, ...] = Field(
        ("retrieval", "reranking"), description="kinds of tasks whose pairs are scored"
    )
    reranker: bool = Field(True, description="the reranker learns from the scores (rerank.teacher_weight)")
    embedder: bool = Field(
        False, description="the embedder learns from the scores (train.distillation_weight)"
    )
    temperature: float = Field(0.05, gt=0.0, description="an embedder's similarities are divided by this")
    shard_pairs: Count = Field(4096, description="pairs per shard: what a killed run has to score again")
    batch_tokens: Count = Field(8192, description="tokens per forward pass of the teacher")

    @model_validator(mode="after")
    def _folder_where_one_is_read(self) -> TeacherConfig:
        needs = self.source in ("reranker", "cross_encoder")
        if needs and self.folder is None:
            raise ValueError(f"teacher.source = {self.source!r} needs teacher.folder, a local model folder")
        if not needs and self.source != "embedder" and self.folder is not None:
            raise ValueError(
                f"teacher.folder is set, but teacher.source = {self.source!r} reads none; set the source to "
                "'reranker', 'cross_encoder' or 'embedder', or leave the folder out"
            )
        return self

    @model_validator(mode="after")
    def _somebody_learns(self) -> TeacherConfig:
        if self.source == "none" and self.embedder:
            raise ValueError("teacher.embedder is on, but teacher.source = 'none' scores nothing")
        if self.source == "embedder" and (self.reranker or not self.embedder):
            raise ValueError(
                "an embedder scores no pairs for a reranker; with teacher.source = 'embedder' set "
                "teacher.reranker = false and teacher.embedder = true"
            )
        if self.source != "none" and not (self.reranker or self.embedder):
            raise ValueError("nobody learns from the teacher; set teacher.reranker or teacher.embedder")
        if self.source != "none" and not self.kinds:
            raise ValueError("teacher.kinds is empty: there would be nothing to score")
        if self.source != "none" and self.reranker and not RANKING_KINDS & set(self.kinds):
            raise ValueError(
                "the reranker learns from retrieval and reranking tasks alone, and teacher.kinds are "
                f"{', '.join(self.kinds)}; add one of the two, or set teacher.reranker = false"
            )
        return self
