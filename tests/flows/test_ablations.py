"""Variants of a run, trained, scored and compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from icl_embed.errors import ConfigError
from icl_embed.pipeline.ablation import open_variants
from tests.flows.running import run_flow
from tests.tiny_project import build_project

EACH_QUERY = "train.examples.sharing=per_query"  # what bidirectional attention can do


def rows_of(store: Path) -> list[list[str]]:
    [table] = (store / "ablation").glob("*/ablation.md")
    return [line.strip("| \n").split(" | ") for line in table.read_text().splitlines()[2:]]


@pytest.mark.slow
def test_every_variant_has_a_row_with_its_losses_and_scores(project: Path, store_copy: Path) -> None:
    # the first variant is the finished run's embedder
    vary = ["train.examples.mode=in_batch|none"]
    process = run_flow(
        "ablations", project, f"paths.store={store_copy}", options=[f"--vary={one}" for one in vary]
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    rows = rows_of(store_copy)
    assert [row[0] for row in rows] == ["mode=in_batch", "mode=none"]
    assert all("→" in row[1] and "(" in row[4] for row in rows)
    assert rows[0][1] != rows[1][1]
    assert "mode=in_batch" in process.stdout


@pytest.mark.slow
def test_every_attention_trains_with_every_pooling_with_and_without_examples(tmp_path: Path) -> None:
    project = build_project(tmp_path)
    vary = [
        "model.attention=causal|bidirectional",
        "model.pooling=last|mean",
        "train.examples.mode=in_batch|fixed|none",
    ]
    process = run_flow(
        "ablations", project, EACH_QUERY, options=[f"--vary={one}" for one in vary], timeout=1200
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    assert len(rows_of(project.parent / "store")) == 12


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ([], "nothing to compare"),
        (["model.pooling"], "expected setting=first"),
        (["model.pooling=last|"], "expected setting=first"),
        (["model.pooling=last|max"], "model.pooling"),
    ],
)
def test_what_cannot_vary_is_refused_before_anything_runs(
    project: Path, vary: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_variants(str(project), [], vary)


def test_alternatives_for_another_flow_are_refused(project: Path) -> None:
    process = run_flow(
        "build-pool",
        project,
        options=["--vary=model.pooling=last|mean"],
    )
    assert process.returncode == 2
    assert "belongs to the flow ablations" in process.stderr
