"""A reranker training job as a file."""

from __future__ import annotations

from icl_embed.config import RerankConfig
from icl_embed.train.job import Job


class RerankerJob(Job):
    """Distil a lightweight reranker."""

    rerank: RerankConfig
