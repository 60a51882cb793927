"""An embedder that another learns from: what it says of a step, and that the student comes nearer to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from icl_embed.config import TeacherConfig
from icl_embed.errors import ConfigError, ModelError
from icl_embed.pipeline.run import open_run
from icl_embed.train.embedder.loss import imitation
from icl_embed.train.embedder.objective import make_targets
from icl_embed.train.embedder.teacher import EmbedderTeacher
from icl_embed.train.job import write_job
from tests.icl_embed.train.gradients import ALONE, make_objective
from tests.tiny_models import build_model, build_sentence_transformer
from tests.tiny_project import build_project
from tests.training_jobs import make_job, run_job, write_rows

PROMPT = {"query_tokens": 64, "passage_tokens": 64, "total_tokens": 256}
TOLD = TeacherConfig(source="embedder", reranker=False, embedder=True, kinds=("retrieval",), temperature=0.1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("teacher")
    return build_sentence_transformer(root / "teacher", build_model(root / "model", seed=7))


@pytest.fixture
def taught(tiny_model: Path, tmp_path: Path, teacher: Path):
    rows = write_rows(tmp_path / "train.parquet")
    job = make_job(tmp_path, tiny_model, rows, prompt=PROMPT, optimizer={"steps": 20})
    return job.model_copy(update={"teacher_model": teacher, "teacher": TOLD})


def test_the_teacher_compares_the_bare_texts_of_the_kinds_it_teaches(taught, teacher: Path) -> None:
    objective = make_objective(taught)
    model = SentenceTransformer(str(teacher), device="cpu")
    met = set()
    for step in range(20):
        prepared = objective._prepare(step)
        found = objective._teacher.scores(prepared, range(8), ALONE, all_ranks=True)
        met.add(prepared.kind)
        if prepared.kind != "retrieval":
            assert found is None
            continue
        passages = [one.source for row in prepared.candidates for one in row]
        vectors = [
            model.encode(list(texts), normalize_embeddings=True) for texts in (prepared.queries, passages)
        ]
        np.testing.assert_allclose(found.numpy(), vectors[0] @ vectors[1].T / 0.1, atol=1e-4)
    assert "retrieval" in met and len(met) > 1


def test_the_loss_is_the_plain_one_and_the_divergence(taught, monkeypatch) -> None:
    objective = make_objective(taught)
    plain = make_objective(taught.model_copy(update={"teacher_model": None}))
    step = next(step for step in range(20) if objective._prepare(step).kind == "retrieval")
    prepared, seen = objective._prepare(step), []

    def watched(queries, passages, targets, sums):
        seen.append(queries.detach() @ passages.detach().T / taught.train.temperature)
        return type(objective)._loss_at(objective, queries, passages, targets, sums)

    monkeypatch.setattr(objective, "_loss_at", watched)
    loss, _ = objective.loss(step, ALONE)
    alone, _ = plain.loss(step, ALONE)
    targets = make_targets(prepared, range(8), all_ranks=True, device=torch.device("cpu"))
    told = objective._teacher.scores(prepared, range(8), ALONE, all_ranks=True)
    expected = imitation(seen[0], told, targets.masked).item() / len(prepared.candidates)
    assert expected > 0.01
    assert float(loss.detach() - alone.detach()) == pytest.approx(expected, rel=1e-3)


def test_a_student_comes_nearer_to_its_teacher(taught, tmp_path: Path) -> None:
    optimizer = taught.train.optimizer.model_copy(update={"steps": 90, "learning_rate": 5e-3})
    train = taught.train.model_copy(update={"optimizer": optimizer, "distillation_weight": 5.0})
    job = taught.model_copy(update={"train": train})
    write_job(job, tmp_path / "job.json")
    lines, _ = run_job(job, tmp_path)
    told = [line["imitation_per_query"] for line in lines if "imitation_per_query" in line]
    quarter = len(told) // 4
    assert quarter >= 5
    assert np.mean(told[-quarter:]) < 0.9 * np.mean(told[:quarter])


def test_a_folder_that_is_no_embedder_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ModelError):
        EmbedderTeacher.load(tiny_model.parent / "nowhere", kinds=(), temperature=0.1, place=ALONE)


def test_the_teacher_is_known_by_its_pin_or_by_what_its_folder_holds(tmp_path: Path, teacher: Path) -> None:
    preset = str(build_project(tmp_path))
    asked = ["teacher.source=embedder", "teacher.embedder=true", "teacher.reranker=false"]
    keys = open_run(preset, asked).keys
    assert keys.imitated is not None
    assert keys.embedder.inputs["teacher-model"] == keys.imitated.reference
    assert keys.imitated in list(keys)
    local = open_run(preset, [*asked, f"teacher.folder={teacher}"]).keys
    assert local.imitated is None and local.embedder.settings["teacher"]["model"]
    with pytest.raises(ConfigError, match="does not exist"):
        _ = open_run(preset, [*asked, f"teacher.folder={tmp_path / 'gone'}"]).keys
    with pytest.raises(ConfigError, match=r"teacher.reranker = false"):
        open_run(preset, ["teacher.source=embedder", "teacher.embedder=true"])
