"""The scheduled re-evaluation on a tiny project: real Prefect runs, a real model, real mteb scores."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.testing.utilities import prefect_test_harness

from flows.re_evaluate import re_evaluate
from flows.starting import FLOWS
from icl_embed.errors import StoreError
from icl_embed.evaluation.results import regression as scoring_code
from icl_embed.evaluation.results.regression import RegressionError
from icl_embed.model.settings import EmbedderSettings, write_settings
from icl_embed.pipeline.build import build
from icl_embed.pipeline.run import open_run
from icl_embed.pipeline.stages.re_evaluation import plan_re_evaluation
from icl_embed.store import StageKey
from icl_embed.store.sweep import survey
from tests.tiny_project import build_project, fact, pair, write_dataset

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(autouse=True)
def code(monkeypatch: pytest.MonkeyPatch) -> None:
    """One hash per test: an edit of the checkout while tests run is no change that they made."""
    now = scoring_code.scoring_code()
    monkeypatch.setattr("icl_embed.pipeline.stages.re_evaluation.scoring_code", lambda: now)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Test sets that are large enough to see a fall, and a published model with mean pooling."""
    preset = build_project(tmp_path)
    rng = random.Random(1)
    notes = [fact(rng, number + 500) for number in range(300)]
    write_dataset(tmp_path / "cards", "tiny-notes", "retrieval", 'positives = "{positive}"', notes)
    scored = 'positives = "{positive}"\nscore = "{score}"'
    pairs = [pair(rng, number) for number in range(300)]
    write_dataset(tmp_path / "cards", "tiny-pairs", "sts", scored, pairs)
    publish(preset)
    return preset


def publish(preset: Path, noise: float = 0.0) -> None:
    """The project's base model as a published embedder, its weights perturbed by so many standard deviations."""
    import torch
    from safetensors.torch import load_file, save_file

    def produce(folder: Path) -> dict[str, float]:
        shutil.copytree(preset.parent / "model", folder, dirs_exist_ok=True)
        write_settings(folder, EmbedderSettings(pooling="mean"))
        torch.manual_seed(1)
        weights = load_file(folder / "model.safetensors")
        for tensor in weights.values():
            tensor.add_(torch.randn_like(tensor), alpha=noise * float(tensor.std()))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return {"noise": noise}

    if noise:
        time.sleep(1.1)  # manifests tell time in seconds
    open_run(str(preset)).store.build(StageKey("embedder", 99, {"noise": noise}, {}, "tiny"), produce)


def run(preset: Path, **parameters: object) -> State[str]:
    return re_evaluate(str(preset), **parameters, return_state=True)  # type: ignore[arg-type]


def artefacts(preset: Path) -> set[str]:
    return {one.reference for one in open_run(str(preset)).store.artefacts()}


def newest_table() -> str:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts()
    tables = [one for one in found if one.key == "re-evaluation"]
    return str(max(tables, key=lambda one: one.created).data)


def change_pooling(monkeypatch: pytest.MonkeyPatch, folder: Path, old: str, new: str) -> None:
    """Run and hash an edited copy of the pooling code, in this process."""
    monkeypatch.setattr("tasks.stage_log.build_apart", build)
    package = folder / "changed" / "icl_embed"
    shutil.copytree(scoring_code.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    path = package / "model" / "pooling.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    spec = importlib.util.spec_from_file_location("changed_pooling", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("icl_embed.model.embedder.pool", module.pool)
    changed = scoring_code.scoring_code(package)
    monkeypatch.setattr("icl_embed.pipeline.stages.re_evaluation.scoring_code", lambda: changed)


def test_the_first_scores_are_accepted_and_then_there_is_no_work(project: Path) -> None:
    first = run(project)
    assert first.is_completed(), first.message
    assert "first accepted" in first.result()
    before = artefacts(project)
    again = run(project)
    assert again.is_completed()
    assert "nothing changed" in again.result()
    assert artefacts(project) == before


@pytest.mark.slow
def test_perturbed_weights_fail_the_run_until_the_fall_is_accepted(project: Path) -> None:
    run(project)
    publish(project, noise=5.0)
    fallen = run(project)
    assert fallen.is_failed()
    with pytest.raises(RegressionError, match=r"tiny-notes, .* → .*inputs.model") as told:
        fallen.result()
    assert str(told.value).endswith(f"icl-embed run re-evaluate --preset {project} --accept --here")
    table = newest_table()
    assert "| **fell** | data/tiny-notes, zero-shot" in table
    assert "| **fell** | average of 3, zero-shot" in table
    assert "inputs.model" in table

    still = run(project)  # a fall does not become normal by waiting a week
    assert still.is_failed()
    accepted = run(project, accept=True)
    assert accepted.is_completed()
    assert "accepted on purpose" in accepted.result()
    assert "nothing changed" in run(project).result()


@pytest.mark.slow
def test_a_change_of_the_pooling_code_fails_the_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(project)
    # mean pooling is forgotten: every model takes the state of its last token
    change_pooling(monkeypatch, tmp_path, 'if method == "last":', "if method:")
    fallen = run(project)
    assert fallen.is_failed()
    with pytest.raises(RegressionError, match=r"fell: .*settings.code.source"):
        fallen.result()


@pytest.mark.slow
def test_changed_code_that_scores_alike_is_scored_again_and_accepted(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(project)
    before = artefacts(project)
    change_pooling(monkeypatch, tmp_path, "From token states", "From the states of tokens")
    state = run(project)
    assert state.is_completed(), state.message
    assert "no score fell" in state.result()
    new = artefacts(project) - before
    stages = sorted(name.split("/")[0] for name in new)
    assert stages == ["accepted-scores", "re-evaluation", *["score"] * 6]
    assert "nothing changed" in run(project).result()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "told"),
    [("evaluate.example_seed=3", "asked.seed: 0 → 3"), ("model.dtype=bfloat16", "dtype")],
)
def test_a_change_that_harms_nothing_is_accepted(project: Path, override: str, told: str) -> None:
    run(project)
    state = run(project, overrides=[override])
    assert state.is_completed(), state.message
    assert "no score fell" in state.result()
    assert told in newest_table()


@pytest.mark.slow
def test_changed_test_data_are_compared_without_pairing(project: Path) -> None:
    run(project)
    rng = random.Random(2)
    notes = [fact(rng, number + 900) for number in range(300)]
    write_dataset(project.parent / "cards", "tiny-notes", "retrieval", 'positives = "{positive}"', notes)
    state = run(project)
    assert state.is_completed(), state.message
    assert "tiny-notes, zero-shot (ndcg_at_10) (data changed, unpaired)" in newest_table()


@pytest.mark.slow
def test_a_data_set_that_the_preset_drops_is_told_and_is_no_fall(project: Path) -> None:
    run(project)
    state = run(project, overrides=['data.evaluate=["tiny-notes", "tiny-pairs"]'])
    assert state.is_completed(), state.message
    assert "| dropped | data/tiny-topics |" in newest_table()
    assert "dropped from the preset" in newest_table()


def test_without_a_published_model_the_run_says_how_to_get_one(tmp_path: Path) -> None:
    preset = build_project(tmp_path)
    with pytest.raises(
        StoreError,
        match="no model of the preset tiny .* run train-embedder --preset .*/tiny.toml --set seed=13$",
    ):
        plan_re_evaluation(open_run(str(preset), ["seed=13"]))


@pytest.mark.slow
def test_damaged_accepted_scores_are_not_passed_over(project: Path) -> None:
    run(project)
    [folder] = (project.parent / "store" / "accepted-scores").glob("[0-9a-f]*")
    (folder / "data" / "tiny-notes, zero-shot" / "scores.json").write_text("{}")
    with pytest.raises(StoreError, match="restore it, or remove its folder"):
        plan_re_evaluation(open_run(str(project)))


@pytest.mark.slow
def test_garbage_collection_keeps_the_accepted_scores(project: Path) -> None:
    run(project)
    store = open_run(str(project)).store
    store.build(StageKey("report", 1, {}, {}, "tiny"), lambda folder: {})
    garbage = {one.path.parent.name for one in survey(store, keep_reports=1, min_age_hours=0) if one.goes}
    assert "dataset" in garbage
    assert "score" not in garbage
    assert "accepted-scores" not in garbage
    assert "embedder" not in garbage
    shutil.rmtree(store.root / "score")
    assert "nothing changed" in run(project).result()


def test_it_is_a_deployment_with_a_schedule_that_is_switched_off() -> None:
    assert "re-evaluate" in FLOWS
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    [mine] = [one for one in deployments if one["name"] == "re-evaluate"]
    assert [schedule["active"] for schedule in mine["schedules"]] == [False]
    assert mine["entrypoint"] == "flows/re_evaluate.py:re_evaluate"


@pytest.mark.slow
def test_the_verdict_is_also_there_for_programs(project: Path) -> None:
    run(project)
    publish(project, noise=5.0)
    run(project)
    [folder] = (project.parent / "store" / "re-evaluation").glob("[0-9a-f]*")
    verdict = json.loads((folder / "re_evaluation.json").read_text())
    assert verdict["fallen"]
    assert set(verdict["fallen"]) <= {row["task"] for row in (*verdict["rows"], *verdict["averages"])}
