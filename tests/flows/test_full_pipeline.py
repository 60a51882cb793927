"""The whole pipeline on a tiny project: real Prefect, real DeepSpeed ranks, real mteb."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from icl_embed.evaluation.scores import read_examples
from icl_embed.pipeline.plan import plan
from icl_embed.pipeline.run import open_run
from icl_embed.pool.examples import eligible_examples
from tests.flows.running import MAIN, flow_command, flow_environment, run_flow, stages_to_run, task_states


def test_one_command_ends_with_a_report(finished) -> None:
    project, process = finished
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    run = open_run(str(project))
    page = run.artefact(run.keys.report).path / "index.html"
    assert str(page) in process.stdout
    assert "<html" in page.read_text()
    assert stages_to_run(run) == []
    assert "ERROR" not in process.stdout + process.stderr


def test_the_scores_say_what_was_measured(finished) -> None:
    project, _ = finished
    run = open_run(str(project))
    shots = run.config.evaluate.shots
    for (system, name), keys in run.keys.scores.items():
        found = [json.loads((run.artefact(key).path / "scores.json").read_text()) for key in keys]
        settings = [result["setting"] for scores in found for result in scores["results"]]
        expected = ["bm25"] if system == "bm25" else ["zero-shot", f"{shots}-shot fixed"]
        assert settings == expected, (system, name)
        for scores in found:
            assert scores["trained_on"] == (system == "trained" and name in run.config.data.train)
            assert all(one["low"] <= one["mean"] <= one["high"] for one in scores["results"])


def test_a_second_run_takes_everything_from_the_store(finished) -> None:
    project, _ = finished
    again = run_flow("full-pipeline", project)
    states = task_states(again.stdout + again.stderr)
    assert again.returncode == 0
    assert set(states) == {"Cached"}
    assert states["Cached"] == len(list(open_run(str(project)).keys))


@pytest.mark.slow
def test_controls_stand_beside_the_trained_model_in_scores_and_report(finished) -> None:
    project, _ = finished
    asked = ['evaluate.baselines=["bm25","base","base_mean","no_examples"]', "evaluate.placebo=true"]
    newest = open_run(str(project)).store.newest("embedder")
    process = run_flow("full-pipeline", project, *asked)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    run = open_run(str(project), asked)
    control = run.artefact(run.keys.controls["no_examples"])
    assert control.manifest.counts["examples_used"] == 0
    assert newest and run.store.newest("embedder").reference == newest.reference
    page = (run.artefact(run.keys.report).path / "index.html").read_text()
    for words in ("base, mean-pooled", "trained without examples", "few-shot over examples of another task"):
        assert words in page
    [placebo] = [key for key in run.keys.scores["trained", "tiny-notes"] if "off-task" in key.label]
    other = placebo.settings["examples"]["placebo"]
    known = {row.example.query for row in eligible_examples(run.artefact(run.keys.pool).path, other)}
    shown = read_examples(run.artefact(placebo).path, f"{run.config.evaluate.shots}-shot off-task")
    assert shown and {example.query for example in shown} <= known


@pytest.mark.slow
def test_the_rerankers_flow_has_every_stage_up_to_the_report(finished) -> None:
    project, _ = finished
    again = run_flow("distill-reranker", project)
    assert again.returncode == 0
    assert set(task_states(again.stdout + again.stderr)) == {"Cached"}
    assert open_run(str(project)).keys.report.fingerprint in again.stdout


def test_a_new_learning_rate_reruns_training_and_what_follows(finished) -> None:
    project, _ = finished
    run = open_run(str(project), ["train.optimizer.learning_rate=2e-3"])
    again = Counter(stages_to_run(run))
    assert again == {
        "embedder": 1,
        "score": 2
        * (3 + 1),  # two settings on the test splits, and the dev split that the reranker is tuned on
        "reranker-choice": 1,
        "reranker-evaluation": 1,
        "report": 1,
    }
    [embedder] = [stage for stage in plan(run.store, run.keys) if stage.key.stage == "embedder"]
    assert embedder.reason == "settings.train.optimizer.learning_rate: 0.001 → 0.002"


def test_the_reranker_is_tuned_on_dev_queries_and_measured_on_test_queries(finished) -> None:
    project, _ = finished
    run = open_run(str(project))
    [keys] = run.keys.tuning_scores.values()
    assert {json.loads((run.artefact(key).path / "scores.json").read_text())["split"] for key in keys} == {
        "dev"
    }
    assert run.keys.reranker_choice is not None
    choice = json.loads((run.artefact(run.keys.reranker_choice).path / "choice.json").read_text())
    scores = json.loads((run.artefact(run.keys.reranker_evaluation).path / "scores.json").read_text())
    assert scores["chosen"]["layer"] == choice["chosen"]["layer"]
    assert scores["chosen_by"] == "development queries"
    assert "bm25" in scores["datasets"][0]


def test_another_number_of_ranks_trains_nothing_again(finished) -> None:
    project, _ = finished
    run = open_run(str(project), ["train.launch.processes=1", "train.optimizer.save_every=1"])
    assert stages_to_run(run) == ["report"]  # which prints the whole config


def test_a_changed_card_reruns_its_own_rows_and_not_the_others(finished) -> None:
    project, _ = finished
    card = project.parent / "cards" / "tiny-notes.toml"
    text = card.read_text()
    try:
        card.write_text(text.replace("CC0-1.0", "CC-BY-4.0"))
        assert stages_to_run(open_run(str(project))) == []  # a licence is no content
        card.write_text(text.replace("test = 0.3", "test = 0.2").replace("train = 0.6", "train = 0.7"))
        run = open_run(str(project))
        datasets = [
            s.key.label for s in plan(run.store, run.keys) if s.key.stage == "dataset" and not s.is_cached
        ]
        assert datasets == ["tiny-notes"]
        assert "base-model" not in stages_to_run(run)
    finally:
        card.write_text(text)


def test_a_damaged_artefact_is_rebuilt_and_only_that(finished) -> None:
    project, _ = finished
    run = open_run(str(project))
    rows = run.artefact(run.keys.datasets["tiny-facts"]).path / "rows.parquet"
    before = rows.read_bytes()
    rows.write_bytes(before[:100])
    [planned] = [stage for stage in plan(run.store, run.keys) if not stage.is_cached]
    assert planned.reason.startswith("damaged: rows.parquet has 100 bytes")
    again = run_flow("build-pool", project)
    states = task_states(again.stdout + again.stderr)
    assert again.returncode == 0
    assert states["Completed"] == 1
    assert rows.read_bytes() == before


def test_a_mistake_in_the_config_is_one_line_and_exit_code_2(project: Path) -> None:
    process = run_flow("full-pipeline", project, "train.temprature=1")
    assert process.returncode == 2
    assert "train.temprature" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_stage_that_refuses_its_input_ends_the_run_with_one_clean_message(finished) -> None:
    project, _ = finished
    process = run_flow("build-pool", project, "pool.min_characters=5000")
    assert process.returncode == 2
    said = process.stdout + process.stderr
    assert process.stderr.splitlines()[-1].startswith(("PoolError", "prefect"))
    assert "mend the data, or change pool.min_characters" in said
    assert "Traceback" not in said
    assert "nanobind" not in said
    assert task_states(said)["Failed"] == 1


def test_a_card_that_does_not_exist_is_refused_with_near_names(project: Path) -> None:
    process = run_flow("full-pipeline", project, 'data.train=["tiny-fact"]')
    assert process.returncode == 2
    assert "did you mean tiny-facts" in process.stderr


@pytest.mark.slow
def test_no_model_is_loaded_in_the_flows_own_process(finished) -> None:
    project, _ = finished
    models = ["icl_embed.model.embedder", "icl_embed.rerank.reranker", "transformers.modeling_utils"]
    code = f"import atexit, sys; atexit.register(lambda: print({models}, set({models}) & set(sys.modules))); {MAIN}"
    process = subprocess.run(
        flow_command("full-pipeline", project, ["evaluate.shots=1"], code=code),
        cwd=project.parent, env=flow_environment(project), capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    assert task_states(process.stdout + process.stderr)["Completed"] > 0, "scores were made"
    assert f"{models} set()" in process.stdout
