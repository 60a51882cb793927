"""The teacher among the stages: who depends on its scores, what its key knows, and a run that uses it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from icl_embed.errors import ConfigError
from icl_embed.pipeline.build import build
from icl_embed.pipeline.run import Run, open_run
from icl_embed.store import StageKey
from icl_embed.teacher.scores import read_teacher_scores
from tests.tiny_project import build_project

OWN = "teacher.source=own"


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_project(tmp_path_factory.mktemp("project"))


def keys(preset: Path, *overrides: str) -> dict[str, StageKey]:
    found = open_run(str(preset), overrides).keys
    return {
        "teacher": found.teacher,
        "own": found.own_reranker,
        "reranker": found.reranker,
        "embedder": found.embedder,
        "negatives": found.negatives,
    }


def from_folder(preset: Path, *overrides: str) -> dict[str, StageKey]:
    return keys(preset, "teacher.source=reranker", f"teacher.folder={preset.parent / 'model'}", *overrides)


def test_without_a_teacher_nothing_depends_on_one(preset: Path) -> None:
    found = keys(preset)
    assert found["teacher"] is None and found["own"] is None
    assert "teacher" not in {*found["reranker"].inputs, *found["embedder"].inputs}


def test_only_who_learns_from_the_teacher_depends_on_it(preset: Path) -> None:
    plain, both = keys(preset), from_folder(preset, "teacher.embedder=true")
    assert both["reranker"].inputs["teacher"] == both["teacher"].reference
    assert both["embedder"].inputs["teacher"] == both["teacher"].reference
    reranker = from_folder(preset)
    assert reranker["embedder"] == plain["embedder"]
    embedder = from_folder(preset, "teacher.embedder=true", "teacher.reranker=false")
    assert embedder["reranker"] == plain["reranker"]
    assert embedder["embedder"] == both["embedder"]


def test_the_runs_own_reranker_teaches_after_it_was_trained_without_a_teacher(preset: Path) -> None:
    plain, own = keys(preset), keys(preset, OWN)
    assert own["own"] == plain["reranker"]
    assert own["teacher"].inputs == {
        "negatives": own["negatives"].reference,
        "reranker": plain["reranker"].reference,
    }
    assert own["reranker"].inputs["teacher"] == own["teacher"].reference
    order = [key.reference for key in open_run(str(preset), [OWN, "teacher.embedder=true"]).keys]
    assert len(set(order)) == len(order)
    run = open_run(str(preset), [OWN, "teacher.embedder=true"]).keys
    chain = [run.own_reranker, run.teacher, run.embedder, run.reranker]
    places = [order.index(key.reference) for key in chain if key]
    assert places == sorted(places) and len(places) == 4
    for_embedder = [OWN, "teacher.embedder=true", "teacher.reranker=false"]
    references = [key.reference for key in open_run(str(preset), for_embedder).keys]
    assert references.count(plain["reranker"].reference) == 1


def test_a_teachers_folder_is_known_by_what_it_holds(preset: Path, tmp_path: Path) -> None:
    first = from_folder(preset)["teacher"]
    copy = shutil.copytree(preset.parent / "model", tmp_path / "elsewhere")
    moved = keys(preset, "teacher.source=reranker", f"teacher.folder={copy}")["teacher"]
    assert moved == first
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    changed = keys(preset, "teacher.source=reranker", f"teacher.folder={copy}")["teacher"]
    assert changed.fingerprint != first.fingerprint
    run = open_run(str(preset), ["teacher.source=reranker", f"teacher.folder={tmp_path / 'nowhere'}"])
    with pytest.raises(ConfigError, match="teacher.folder is .*nowhere, which does not exist"):
        _ = run.keys


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher.source=cross_encoder"], "needs teacher.folder"),
        (["teacher.folder=model"], "reads none"),
        ([OWN, "teacher.folder=model"], "reads none"),
        (["teacher.embedder=true"], "scores nothing"),
        ([OWN, "teacher.reranker=false"], "nobody learns from the teacher"),
        ([OWN, "teacher.kinds=[]"], "teacher.kinds is empty"),
        ([OWN, 'teacher.kinds=["sts"]'], "retrieval and reranking tasks alone"),
        ([OWN, "rerank.teacher_weight=0"], "teacher.reranker is on, but rerank.teacher_weight is 0"),
        (
            [OWN, "teacher.embedder=true", "train.distillation_weight=0"],
            "teacher.embedder is on, but train.distillation_weight is 0",
        ),
        (["rerank.contrastive_weight=0", "rerank.teacher_weight=0"], "no head would learn to rank"),
        (["rerank.optimizer.zero_stage=3"], "use optimizer.zero_stage 0, 1 or 2"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    preset: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_run(str(preset), overrides)


def make(run: Run, *wanted: StageKey | None) -> dict[str, list[str]]:
    """Build some stages; returns their log lines."""
    lines: dict[str, list[str]] = {}
    for key in wanted:
        assert key is not None
        build(run, key, lines.setdefault(key.stage, []).append)
    return lines


def data_keys(run: Run) -> list[StageKey]:
    return [run.keys.base_model, *run.keys.datasets.values(), run.keys.pool, run.keys.negatives]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_embedder_and_reranker_are_distilled_from_the_same_scores(preset: Path) -> None:
    run = open_run(
        str(preset),
        [
            "teacher.source=reranker", f"teacher.folder={preset.parent / 'model'}", "teacher.embedder=true",
            "teacher.shard_pairs=100", "train.launch.processes=1", "train.optimizer.steps=8",
        ],
    )  # fmt: skip
    lines = make(run, *data_keys(run), run.keys.teacher, run.keys.embedder, run.keys.reranker)
    teacher = run.artefact(run.keys.teacher)
    counts = teacher.manifest.counts
    assert lines["teacher-scores"][-1].startswith(f"shard {counts['shards']}/{counts['shards']}")
    assert len(read_teacher_scores(teacher.path)) == counts["pairs"] > 100
    assert counts["teacher"] == f"reranker:{run.keys.teacher.settings['model']}"
    logs = {
        key.stage: [json.loads(line) for line in (run.artefact(key).path / "metrics.jsonl").open()]
        for key in (run.keys.embedder, run.keys.reranker)
    }
    assert any(line.get("distillation", 0.0) > 0 for line in logs["embedder"])
    assert all(line["teacher_loss"] > 0 for line in logs["reranker"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_runs_own_reranker_teaches(preset: Path) -> None:
    run = open_run(str(preset), [OWN])
    make(run, *data_keys(run), run.keys.own_reranker, run.keys.teacher, run.keys.reranker)
    counts = run.artefact(run.keys.teacher).manifest.counts
    assert counts["teacher"] == f"own:{run.keys.own_reranker.fingerprint}"
    first, second = (run.artefact(key).path for key in (run.keys.own_reranker, run.keys.reranker))
    assert (first / "heads.safetensors").read_bytes() != (second / "heads.safetensors").read_bytes()
