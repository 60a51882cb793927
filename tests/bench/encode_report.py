"""From seconds and token counts to the figures that a reader wants."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from icl_embed.model.decoder_shape import DecoderShape
from tests.bench.material import Material
from tests.bench.rounds import ratio, spread

FLAG, SENTENCE = "FlagEmbedding float32", "sentence-transformers float32"
KEYS = {  # name of the figure: (what took longer, what it is compared with)
    "few_speedup_vs_flagembedding": (f"few {FLAG}", "few ours float32"),
    "few_time_vs_zero": ("few ours float32", "zero ours float32"),
    "few_time_vs_zero_bf16": ("few ours bfloat16", "zero ours bfloat16"),
    "zero_speedup_vs_flagembedding": (f"zero {FLAG}", "zero ours float32"),
    "passages_vs_flagembedding": (f"passages {FLAG}", "passages ours float32"),
    "passages_vs_sentence_transformers": (f"passages {SENTENCE}", "passages ours float32"),
    "passages_auto_dtype_vs_flagembedding": (f"passages {FLAG}", "passages ours auto"),
    "passages_auto_dtype_vs_sentence_transformers_bf16": (
        "passages sentence-transformers bfloat16",
        "passages ours auto",
    ),
}


def summarise(seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The figures, and the least and greatest ratio of a round for each.

    ``few_time_vs_*`` is few-shot time over zero-shot time of ours; all others say how many times faster we are.
    """
    figures = {key: round(ratio(seconds[slow], seconds[fast]), 3) for key, (slow, fast) in KEYS.items()}
    spreads = {key: spread(seconds[slow], seconds[fast]) for key, (slow, fast) in KEYS.items()}
    return {**figures, "spread_over_rounds": spreads}


@dataclass(frozen=True)
class Lengths:
    """Token counts of what is timed.

    Attributes
        prefix, head: what all few-shot and all zero-shot queries begin with.
        rows: what each query adds: its text, <response> and EOS.
        passages: each passage with EOS.
    """

    prefix: int
    head: int
    rows: tuple[int, ...]
    passages: tuple[int, ...]

    @classmethod
    def of(cls, few: list[list[int]], zero: list[list[int]], passages: list[list[int]]) -> Lengths:
        """From token ids: a prefix is what all begin with."""
        prefix, head = common_beginning(few), common_beginning(zero)
        return cls(prefix, head, tuple(len(row) - head for row in zero), tuple(len(row) for row in passages))


def common_beginning(sequences: Sequence[Sequence[int]]) -> int:
    """How many first tokens all sequences have in common."""
    columns = zip(*sequences, strict=False)
    return next(
        (place for place, column in enumerate(columns) if len(set(column)) > 1), len(min(sequences, key=len))
    )


def describe_setting(material: Material, lengths: Lengths) -> dict[str, Any]:
    """What was encoded."""
    config = json.loads((material.model / "config.json").read_bytes())
    passages = np.array(lengths.passages)
    return {
        "model": f"{config['model_type']}, {config['num_hidden_layers']} layers of width {config['hidden_size']}",
        "queries": len(lengths.rows),
        "examples": len(material.few.examples),
        "few_shot_prefix_tokens": lengths.prefix,
        "zero_shot_prefix_tokens": lengths.head,
        "a_prefix_is": "examples if any, and the instruction before the query: what all queries share",
        "query_tokens_mean": round(float(np.mean(lengths.rows)), 1),
        "a_query_is": "its text, <response> and EOS",
        "passages": len(passages),
        "passage_tokens": int(passages.sum()),
        "passage_tokens_percentiles_5_25_50_75_95": np.percentile(passages, [5, 25, 50, 75, 95]).tolist(),
    }


def limits(
    flops: DecoderShape,
    lengths: Lengths,
    seconds: Mapping[str, Sequence[float]],
    peaks: Mapping[str, float],
    auto_dtype: str,
) -> dict[str, Any]:
    """The least operations of each path, the ratios they allow at equal rates, and everyone's share of the peak."""
    few = flops.shared(lengths.prefix, lengths.rows)
    zero = flops.shared(lengths.head, lengths.rows)
    unshared = flops.whole(lengths.prefix + row for row in lengths.rows)
    zero_unshared = flops.whole(lengths.head + row for row in lengths.rows)
    passages = flops.whole(lengths.passages)
    least = {"few ours": few, "zero ours": zero, "few Flag": unshared, "zero Flag": zero_unshared}

    def share(name: str) -> dict[str, float]:
        operations = next((value for key, value in least.items() if name.startswith(key)), passages)
        dtype = auto_dtype if name.endswith("auto") else name.rsplit(maxsplit=1)[-1]
        rate = operations / statistics.median(seconds[name]) / 1e9
        return {
            "least_gflop": round(operations / 1e9, 1),
            "gflop_per_second": round(rate, 1),
            "share_of_peak": round(rate / peaks[dtype], 3),
        }

    return {
        "peak_gflop_per_second": {dtype: round(peak, 1) for dtype, peak in peaks.items()},
        "few_speedup_vs_flagembedding": round(unshared / few, 2),
        "few_time_vs_zero": round(few / zero, 3),
        "paths": {name: share(name) for name in seconds},
    }
