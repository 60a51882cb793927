"""An exported reranker gives the scores of the one in the store, and its card says what it was made of."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from icl_embed.cli.export import app
from icl_embed.config import RerankConfig
from icl_embed.errors import ConfigError, ModelError
from icl_embed.rerank.folder import HEADS_NAME, export_reranker, start_from
from icl_embed.rerank.reranker import Reranker
from icl_embed.store import Artefact, StageKey, Store
from icl_embed.store.files import write_atomically
from tests.icl_embed.export.small_store import HOSTILE, build_store
from tests.tiny_models import build_model

PAIRS = [("the red cat", "a dog in water"), ("the red cat", "fish")]
SCORES = f"""{{
 "datasets": [{{"dataset": "{HOSTILE.replace('"', "")}", "full_depth": {{"mean": 0.512, "low": 0.4, "high": 0.6}}}}],
 "flops_saved_fraction": 0.654, "relative_loss": 0.01
}}"""


def build_reranker(home: Path, *, measured: bool = True) -> tuple[Store, Artefact]:
    """The small store with a reranker in it, trained with a teacher on the same data, and its evaluation."""
    model = build_model(home / "base", layers=4)
    store, embedder = build_store(home / "store", model)
    config = RerankConfig(start_layer=2, compress_layers=(1,), max_tokens=96)

    def fill(folder: Path) -> dict[str, int]:
        made = start_from(model, config, device=torch.device("cpu"), dtype=torch.float32)
        export_reranker(*made, folder)
        (folder / "metrics.jsonl").write_text("{}\n")
        return {"steps": 7}

    settings = {"rerank": {"self_distillation": "final", "lora": {"rank": 8}}, "seed": 0}
    inputs = {**embedder.manifest.key["inputs"], "teacher": "teacher-scores/0123456789abcdef"}
    reranker = store.build(StageKey("reranker", 2, settings, inputs, "mine"), fill)
    if measured:

        def evaluate(folder: Path) -> dict[str, int]:
            write_atomically(folder / "scores.json", SCORES.encode())
            return {}

        key = StageKey("reranker-evaluation", 1, {}, {"reranker": reranker.reference}, "mine")
        store.build(key, evaluate)
    return store, reranker


def export(home: Path, name: str, *more: str) -> Path:
    arguments = ["export", name, "--output", str(home / "my-reranker"), "--store", str(home / "store"), *more]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return home / "my-reranker"


def test_the_export_scores_as_the_artefact_and_holds_nothing_else(tmp_path: Path) -> None:
    _, artefact = build_reranker(tmp_path)
    folder = export(tmp_path, artefact.reference)
    expected, found = (
        Reranker.load(one, device="cpu", dtype="float32").score(PAIRS) for one in (artefact.path, folder)
    )
    np.testing.assert_array_equal(found, expected)
    assert {path.suffix for path in folder.iterdir()} <= {".safetensors", ".json", ".jinja", ".md"}
    assert not (folder / "manifest.json").exists()


def test_the_card_names_data_licence_recipe_teacher_and_scores(tmp_path: Path) -> None:
    _, artefact = build_reranker(tmp_path)
    folder = export(tmp_path, artefact.reference, "--licence", "Apache-2.0")
    _, front, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "apache-2.0"
    assert yaml.safe_load(front)["pipeline_tag"] == "text-ranking"
    assert "| trained-set | retrieval | training | not stated |" in body
    assert "| unseen-set | retrieval | evaluation only |" in body
    assert r"- rerank.self\_distillation: final" in body
    assert "- steps: 7" in body
    assert "- teacher: teacher-scores/0123456789abcdef" in body
    assert "51.2 (40.0 to 60.0)" in body
    assert "FLOPs saved against full depth: 65.4 %" in body
    assert "<script>" not in re.sub(r"```python.*?```", "", body, flags=re.DOTALL)
    [code] = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    compile(code, "card", "exec")


def test_a_folder_from_elsewhere_says_that_nothing_is_known_of_it(tmp_path: Path) -> None:
    _, artefact = build_reranker(tmp_path, measured=False)
    body = (export(tmp_path, artefact.reference) / "README.md").read_text()
    assert "No evaluation of this model is in its store" in body
    folder = shutil.copytree(tmp_path / "my-reranker", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "my-reranker")
    assert (
        "its data and scores are not known here" in (export(tmp_path, str(folder)) / "README.md").read_text()
    )


def test_what_does_not_fit_a_reranker_is_refused(tmp_path: Path) -> None:
    _, artefact = build_reranker(tmp_path, measured=False)
    with pytest.raises(ConfigError, match="is a reranker"):
        export(tmp_path, artefact.reference, "--adapter")
    folder = shutil.copytree(
        artefact.path, tmp_path / "broken", ignore=shutil.ignore_patterns("manifest.json")
    )
    (folder / HEADS_NAME).unlink()
    with pytest.raises(ModelError, match="has no heads.safetensors"):
        export(tmp_path, str(folder))
    assert not (tmp_path / "my-reranker").exists()
