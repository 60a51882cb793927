"""Operations as torch counts them on the real forward, beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from icl_embed.evaluation.reranker.candidates import Candidates
from icl_embed.rerank.flops import costs_of, query_flops
from icl_embed.rerank.folder import read_reranker
from icl_embed.rerank.pairs import PairBuilder, pack_pairs
from icl_embed.rerank.ways import Cascade, Way, full_way, name_of, run_cascade

CANDIDATES = 10  # the counter wants a graph, whose activations would not fit with all


def count_operations(folder: Path, inputs: Sequence[Candidates], way: Way) -> dict[str, Any]:
    """Both counts for one query of every data set with its first candidates, at full depth and in a way.

    Weights are fp32 and products plain: torch's counter has no entry for oneDNN's nor for fused attention on CPU.
    """
    model, tokenizer, settings = read_reranker(folder, device=torch.device("cpu"), dtype=torch.float32)
    builder = PairBuilder(tokenizer, settings.max_tokens, settings.prompt, settings.prompt_place)
    costs = costs_of(model.decoder, model.pooling)
    full = full_way(settings)
    found: dict[str, dict[str, int]] = {name_of(one): {"torch": 0, "ours": 0} for one in (full, way)}
    for candidates in inputs:
        tokens = builder.pairs(candidates.queries[0].pairs[:CANDIDATES])
        for one in dict.fromkeys((full, way)):
            reached = None
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                if isinstance(one, Cascade):
                    [outcome] = run_cascade(model, [tokens], one, batch_tokens=100_000)
                    reached = outcome.reached
                else:
                    model(pack_pairs(tokens), one)
            found[name_of(one)]["torch"] += int(counter.get_total_flops())
            found[name_of(one)]["ours"] += query_flops(costs, tokens, one, reached=reached)
    return {
        name: {**counts, "ours_over_torch": round(counts["ours"] / counts["torch"], 4)}
        for name, counts in found.items()
    }
