"""What the keys of the embedder and of BM25's scores depend on, and what they must not depend on."""

import pytest

from icl_embed.pipeline.run import open_run
from tests.tiny_project import build_project


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_project(tmp_path_factory.mktemp("project")))


def fingerprint(preset: str, *overrides: str) -> str:
    return open_run(preset, overrides).keys.embedder.fingerprint


def test_who_prepares_the_batches_and_on_how_many_ranks_changes_no_key(preset: str) -> None:
    assert fingerprint(preset) == fingerprint(
        preset, "train.tokenizer_workers=3", "train.launch.processes=1", "train.optimizer.save_every=9"
    )


def test_measuring_on_the_way_changes_the_key_where_it_decides_what_is_published(preset: str) -> None:
    every = "train.dev.every=2"
    assert (
        fingerprint(preset) == fingerprint(preset, every) == fingerprint(preset, every, "train.dev.shots=1")
    )
    best, patient = "train.dev.keep=best", "train.dev.patience=3"
    found = {fingerprint(preset, every, *more) for more in ((), (best,), (patient,), (best, patient))}
    assert len(found) == 4
    assert fingerprint(preset, every, best) != fingerprint(preset, every, best, "train.dev.shots=1")


def test_a_seed_of_training_is_another_model_of_the_same_data_asked_the_same(preset: str) -> None:
    usual, other = open_run(preset), open_run(preset, ["train.seed=99"])
    assert usual.keys.embedder.fingerprint != other.keys.embedder.fingerprint
    assert usual.keys.negatives == other.keys.negatives
    same = open_run(preset, [f"train.seed={usual.config.seed}"])
    assert same.keys.embedder == usual.keys.embedder
    one, another = (next(run.keys.all_scores("trained")) for run in (usual, other))
    assert one.settings == another.settings


def test_the_reports_key_holds_what_it_prints_and_nothing_that_is_not_used(preset: str) -> None:
    keys = [open_run(preset, asked).keys.report for asked in ((), ("train.dev.every=2",))]
    assert "dev" not in keys[0].settings["config"]["train"]
    assert keys[1].settings["config"]["train"]["dev"]["every"] == 2


@pytest.mark.parametrize(
    "override",
    [
        "train.gradient_cache=true",
        "train.text_shuffle=0.5",
        "train.matryoshka_dims=[8]",
        "train.kinds.sts.num_negatives=1",
        "train.examples.mode=fixed",
        "model.template.special_tokens=true",
    ],
)
def test_every_option_of_the_result_changes_the_key(preset: str, override: str) -> None:
    assert fingerprint(preset) != fingerprint(preset, override)


def test_without_cross_device_negatives_the_number_of_ranks_changes_the_key(preset: str) -> None:
    own = "train.cross_device_negatives=false"
    assert fingerprint(preset, own) != fingerprint(preset, own, "train.launch.processes=1")


def test_a_new_evaluation_budget_trains_nothing_again(preset: str) -> None:
    assert fingerprint(preset) == fingerprint(preset, "evaluate.prompt.query_tokens=32")
    assert fingerprint(preset) != fingerprint(preset, "model.prompt.query_tokens=32")


def test_bm25_is_scored_again_only_for_what_it_reads(preset: str) -> None:
    def scored(*overrides: str) -> str:
        [key] = open_run(preset, overrides).keys.scores["bm25", "tiny-notes"]
        return key.fingerprint

    of_models = ("evaluate.shots=1", "evaluate.prompt.query_tokens=32", "model.dtype=bfloat16")
    assert scored() == scored(*of_models)
    assert scored() != scored("evaluate.bootstrap_resamples=50")
