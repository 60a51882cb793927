"""When the reranker is tuned, on what, and what that makes a stage depend on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icl_embed.errors import ConfigError
from icl_embed.pipeline.build import build
from icl_embed.pipeline.run import Run, open_run
from tests.tiny_models import build_model
from tests.tiny_project import build_project


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_project(tmp_path_factory.mktemp("project"))


def run(preset: Path, *overrides: str) -> Run:
    return open_run(str(preset), overrides)


def test_ranking_training_sets_with_a_dev_part_are_tuned_on(preset: Path) -> None:
    keys = run(preset).keys
    # tiny-notes is not trained on, the others do not rank
    assert list(keys.tuning_scores) == ["tiny-facts"]
    [(zero, few)] = keys.tuning_scores.values()
    assert zero.settings["split"] == few.settings["split"] == "dev"
    assert zero.label == "trained on data/tiny-facts dev, zero-shot"
    assert keys.reranker_choice is not None
    assert set(keys.reranker_choice.inputs) == {"reranker", zero.label, few.label}
    assert keys.reranker_evaluation.inputs["choice"] == keys.reranker_choice.reference
    ranked = {name for name in keys.reranker_evaluation.inputs if " on " in name}
    assert {name.partition(",")[0] for name in ranked} == {
        "trained on data/tiny-notes",
        "bm25 on data/tiny-notes",
    }
    assert len(ranked) == 2 + 1
    assert list(keys).index(keys.reranker_choice) < list(keys).index(keys.reranker_evaluation)


def test_other_data_sets_can_be_named(preset: Path) -> None:
    keys = run(preset, 'rerank.tune.datasets=["tiny-notes"]').keys
    assert list(keys.tuning_scores) == ["tiny-notes"]


def test_the_first_sets_are_tuned_on_whatever_the_training_sets_are() -> None:
    demo = open_run("demo").keys
    assert list(demo.tuning_scores) == ["icd10-terms", "trivia-answers", "computing-terms"]
    one = open_run("demo", ['data.train=["sympy-code", "icd10-chapters"]', "rerank.tune.max_datasets=1"]).keys
    assert list(one.tuning_scores) == ["sympy-code"]
    everything = open_run("demo", ["rerank.tune.max_datasets=0"]).keys
    assert len(everything.tuning_scores) > len(demo.tuning_scores)
    assert one.reranker_choice and demo.reranker_choice
    assert one.reranker_choice.settings == demo.reranker_choice.settings  # its inputs say on what


@pytest.mark.parametrize("name", ["tiny-topics", "nothing"])
def test_data_sets_that_rank_nothing_cannot(preset: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="expected retrieval or reranking sets"):
        _ = run(preset, f'rerank.tune.datasets=["{name}"]').keys


def test_without_tuning_the_config_says_how(preset: Path) -> None:
    keys = run(preset, "rerank.tune.enabled=false").keys
    assert not keys.tuning_scores
    assert keys.reranker_choice is None
    assert "choice" not in keys.reranker_evaluation.inputs


def test_a_limit_changes_the_choice_and_nothing_before_it(preset: Path) -> None:
    before, after = run(preset).keys, run(preset, "rerank.tune.max_loss=3").keys
    assert before.reranker == after.reranker
    assert before.tuning_scores == after.tuning_scores
    assert before.reranker_choice != after.reranker_choice
    assert before.reranker_evaluation != after.reranker_evaluation


def test_a_base_model_of_its_own_is_fetched_and_changes_the_reranker_alone(tmp_path: Path) -> None:
    preset = str(build_project(tmp_path))
    other = build_model(tmp_path / "other", "gemma2", layers=4)
    own = ["rerank.base.source=local", f"rerank.base.name={other}"]
    plain, based = open_run(preset), open_run(preset, own)
    assert plain.keys.reranker_base is None
    base = based.keys.reranker_base
    assert base is not None and base != based.keys.base_model
    assert (base.label, based.keys.reranker.inputs["base-model"]) == ("other", base.reference)
    assert list(based.keys).index(base) < list(based.keys).index(based.keys.reranker)
    assert based.keys.embedder == plain.keys.embedder
    assert based.keys.reranker.settings == plain.keys.reranker.settings
    same = open_run(preset, [own[0], f"rerank.base.name={tmp_path / 'model'}"])
    assert same.keys.reranker_base is None and same.keys.reranker == plain.keys.reranker
    build(based, base)
    assert json.loads((based.artefact(base).path / "config.json").read_text())["model_type"] == "gemma2"


def test_what_the_rerankers_base_cannot_do_is_told_before_any_work(tmp_path: Path) -> None:
    preset = str(build_project(tmp_path))
    other = build_model(tmp_path / "other", "gemma2", layers=4, sliding_window=64)
    run = open_run(preset, ["rerank.base.source=local", f"rerank.base.name={other}"])
    with pytest.raises(ConfigError, match=r"looks back 64 tokens .* longer prompts: rerank.max_tokens = 96"):
        _ = run.keys
