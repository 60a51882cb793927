"""Flow: train and score every combination of a few alternative settings, and compare them in one table."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from flows.build_pool import prepare_data
from flows.declaring import Override, Preset, pipeline_flow
from flows.train_embedder import train
from icl_embed.pipeline.ablation import TABLE_NAME, build_ablation, open_variants
from tasks.stages import run_stage


@pipeline_flow("ablations")
def ablations(
    preset: Preset = "demo", overrides: list[Override] | None = None, vary: list[str] | None = None
) -> str:
    """Compare variants; whatever they have in common is built once. Returns the table as Markdown.

    Parameters
        preset: a name from icl_embed/config/presets, or the path of a TOML file.
        overrides: settings of all variants.
        vary: alternatives, e.g. ``["model.attention=causal|bidirectional", "model.pooling=last|mean"]``.
    """
    variants = open_variants(preset, overrides or [], vary or [])
    for variant in variants:
        prepare_data(variant.run)
        train(variant.run)
        for key in variant.scores:
            run_stage(variant.run, key)
    table = (build_ablation(variants).path / TABLE_NAME).read_text(encoding="utf-8")
    create_markdown_artifact(table, key="ablations", description=f"{len(variants)} variants of {preset}")
    return table
