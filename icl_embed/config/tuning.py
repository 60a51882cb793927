"""How the lightweight way to rerank is chosen."""

from __future__ import annotations

from pydantic import Field

from icl_embed.config.base import Count, Section


class TuneConfig(Section):
    """The cheapest exit, width and cascade that loses little on development queries."""

    enabled: bool = Field(
        True, description="choose on dev splits; otherwise cutoff_layer and compress_ratio are used"
    )
    datasets: tuple[str, ...] = Field(
        (), description="whose dev splits; empty: every ranking training set whose card splits off a dev part"
    )
    max_loss: float = Field(
        0.5, ge=0.0, le=100.0, description="nDCG@10 points that may be lost against full depth"
    )
    safe: bool = Field(False, description="hold the interval's upper end to max_loss instead of the mean")
    cascades: bool = Field(True, description="also carry only the promising passages on to a later exit")
    max_queries: Count = Field(200, description="development queries per data set")
