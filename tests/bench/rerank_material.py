"""What ``make bench-rerank`` works on: a trained reranker and an embedder's candidates, or tiny ones for a quick look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from icl_embed.config import RerankConfig
from icl_embed.pipeline.build import build
from icl_embed.pipeline.run import Run, open_run

TOP_K = 50


@dataclass(frozen=True)
class RerankMaterial:
    """Folders that the pipeline makes.

    Attributes
        reranker: trained; ``plain`` is the same without self-distillation, if it was asked for.
        dev, test: the embedder's scores with its best passages; ``bm25`` are BM25's of the same data sets.
    """

    reranker: Path
    plain: Path | None
    dev: tuple[Path, ...]
    test: tuple[Path, ...]
    bm25: tuple[Path, ...]
    config: RerankConfig
    seed: int
    dtype: str
    about: dict[str, str]


def real_rerank_material(
    preset: str, overrides: Sequence[str], *, with_plain: bool, say: Callable[[str], None]
) -> RerankMaterial:
    """Everything from the store of a preset, built where it is missing."""
    run = open_run(preset, [f"rerank.top_k={TOP_K}", *overrides])
    keys = run.keys
    unwanted = {
        key.reference
        for (system, name), mine in keys.scores.items()
        if system == "base" or not _is_ranked(run, name)
        for key in mine
    }
    for key in keys:
        if key.stage in ("reranker-choice", "reranker-evaluation", "report"):
            continue  # measured here, on our own top 50
        if key.reference in unwanted:
            continue
        say(f"{key.stage} {key.label}")
        build(run, key)

    def searched(system: str) -> tuple[Path, ...]:
        return tuple(
            run.artefact(key).path
            for (one, name), mine in keys.scores.items()
            if one == system and _is_ranked(run, name)
            for key in mine
        )

    return RerankMaterial(
        reranker=run.artefact(keys.reranker).path,
        plain=_build_plain(preset, overrides, say) if with_plain else None,
        dev=tuple(run.artefact(key).path for mine in keys.tuning_scores.values() for key in mine),
        test=searched("trained"),
        bm25=searched("bm25"),
        config=run.config.rerank,
        seed=run.config.seed,
        dtype=run.config.model.dtype,
        about={"preset": preset, "reranker": keys.reranker.reference, "embedder": keys.embedder.reference},
    )


def quick_rerank_material(folder: Path) -> RerankMaterial:
    """An untrained tiny reranker and made-up candidates: shows that the benchmark works, measures nothing."""
    import torch

    from icl_embed.rerank.folder import export_reranker, start_from
    from tests.icl_embed.evaluation.reranker.first_stages import write_evaluation
    from tests.tiny_models import build_model

    config = RerankConfig(start_layer=1, layer_step=1, compress_layers=(1,), max_tokens=96, top_k=10)
    base = build_model(folder / "base", layers=4)
    for seed, name in enumerate(("reranker", "plain")):
        model, tokenizer, settings = start_from(base, config, device=torch.device("cpu"), dtype=torch.float32)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.heads.by_layer.values():
                weight.normal_(generator=generator)
        export_reranker(model, tokenizer, settings, folder / name)
    return RerankMaterial(
        reranker=folder / "reranker",
        plain=folder / "plain",
        dev=(write_evaluation(folder / "dev", "made-up", 8, split="dev"),),
        test=(write_evaluation(folder / "test", "made-up", 8),),
        bm25=(write_evaluation(folder / "bm25", "made-up", 8, turn=3),),
        config=config,
        seed=0,
        dtype="float32",
        about={"preset": "made up"},
    )


def _build_plain(preset: str, overrides: Sequence[str], say: Callable[[str], None]) -> Path:
    """The same training with every head on its own: contrastive loss alone."""
    run = open_run(preset, [*overrides, "rerank.self_distillation=none"])
    say(f"reranker without self-distillation {run.keys.reranker.fingerprint}")
    return build(run, run.keys.reranker).path


def _is_ranked(run: Run, dataset: str) -> bool:
    return run.card(dataset).kind in ("retrieval", "reranking")
