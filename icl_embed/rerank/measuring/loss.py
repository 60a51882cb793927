"""What is lost or won between two ways to rerank, or two rerankers, on the same queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from icl_embed.evaluate.measurement import Bootstrap, Measurement, point_and_replicates
from icl_embed.evaluate.statistics import Interval, percentile_interval


def relative_loss(pairs: Sequence[tuple[Measurement, Measurement]], how: Bootstrap) -> Interval:
    """1 - second / first of the averages over data sets, queries paired; 0 where the first scores nothing.

    Parameters
        pairs: (full, cheaper) per data set.
    """
    (full, full_drawn), (cheap, cheap_drawn) = (
        point_and_replicates(sides, how) for sides in zip(*pairs, strict=True)
    )
    # A resample in which full depth finds nothing defines no share; such replicates are left out.
    shares = 1.0 - np.divide(
        cheap_drawn, full_drawn, out=np.full(len(full_drawn), np.nan), where=full_drawn > 0
    )
    if full <= 0:
        return Interval(0.0, 0.0, 0.0)
    return percentile_interval(1.0 - cheap / full, shares, how.confidence)
