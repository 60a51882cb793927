"""``eval run`` on a folder in AIR-Bench's layout and ``eval submission`` on what it stored, with a tiny model."""

import json
import zipfile

import pytest
from typer.testing import CliRunner

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.air_bench.data import write_task
from icl_embed.evaluation.air_bench.names import TaskName
from tests.icl_embed.evaluation.air_bench.conftest import OWN
from tests.icl_embed.evaluation.folders import sentence
from tests.tiny_models import build_model


def invoke(*arguments):
    from flows.command_line import app

    result = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def run(mirror, tmp_path):
    build_model(tmp_path / "model")

    def evaluate(split, *more):
        return invoke(
            "run", "--tasks", OWN, "--air-bench", mirror, "--split", split, "--model", tmp_path / "model",
            "--shots", "0,3", "--store", tmp_path / "store", "--tokens", "64,64,512", *more,
        )  # fmt: skip

    return evaluate


def test_test_runs_become_archives_and_dev_runs_scores(run, toy, tmp_path):
    scores = tmp_path / "dev.json"
    assert run("dev", "--json", scores).exit_code == 0
    assert "qa_healthcare_toy_en" in json.dumps(json.loads(scores.read_text()))
    assert run("test").exit_code == 0
    assert invoke("submission", "--out", tmp_path / "out", "--store", tmp_path / "store").exit_code == 0
    archives = sorted((tmp_path / "out").glob("*.zip"))
    assert ["3-shot" in archive.name for archive in archives] == [True, False]
    rankings = []
    for archive in archives:
        with zipfile.ZipFile(archive) as packed:
            assert packed.namelist() == ["qa/healthcare/en_toy_test.json"]
            rankings.append(json.loads(packed.read("qa/healthcare/en_toy_test.json"))["search_results"])
    for ranking in rankings:
        assert list(ranking) == [f"t{n}" for n in range(5)]
        assert all(set(found) == set(toy["passages"]) for found in ranking.values())
    assert rankings[0] != rankings[1], "examples must reach the prompt"


def test_there_is_nothing_to_submit_without_a_test_run(run, tmp_path):
    assert run("dev").exit_code == 0
    with pytest.raises(EvaluationError, match="--split test"):
        invoke("submission", "--out", tmp_path / "out", "--store", tmp_path / "store")


def test_a_task_that_the_folder_lacks_is_reported_and_fails_the_run(run, mirror, tmp_path):
    texts = {"p": sentence(1)}
    write_task(mirror, TaskName.parse("qa_law_toy_en"), "test", passages=texts, queries=texts, relevance=None)
    result = run("dev", "--tasks", f"{OWN},air-bench/qa_law_toy_en")
    assert result.exit_code == 1
    assert "qa_law_toy_en" in result.output
