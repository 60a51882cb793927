"""Score artefacts in mteb's own layout, read back by mteb's own cache."""

import json

import pytest
from mteb.cache import ResultCache

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.mteb.opening import open_mteb_task
from icl_embed.evaluation.mteb.results_format import write_mteb_results
from icl_embed.evaluation.scores import EvaluationScores, SettingScore, write_scores
from icl_embed.examples import Example
from tests.icl_embed.evaluation.mteb.mirrors import TASKS, write_set
from tests.icl_embed.evaluation.mteb.test_open import MODEL, run

FEW = (Example("q", "r"), Example("s", "t"))


def artefact(folder, task, encoder, examples=(), **more):
    """A score artefact as far as this format reads it."""
    outcome = run(task, encoder, examples)
    name = "2-shot" if examples else "zero-shot"
    score = SettingScore(name, len(examples), outcome.main_score, 0.0, 1.0, 24, 0.1, **more)
    facts = task.facts
    scores = EvaluationScores(
        dataset=facts.name,
        kind=facts.kind,
        model=MODEL.name,
        model_fingerprint=MODEL.fingerprint,
        metric=facts.metric,
        aggregation=outcome.measurement.aggregation,
        trained_on=False,
        confidence=0.95,
        results=(score,),
    )
    (folder / "mteb").mkdir(parents=True)
    write_scores(folder, scores)
    (folder / "mteb" / f"{name}.json").write_text(json.dumps(outcome.result))
    return folder, outcome.main_score


@pytest.fixture
def tasks(tmp_path):
    kinds = ("retrieval", "sts", "classification")
    for kind in kinds:
        write_set(tmp_path / "mirror", kind)
    return [open_mteb_task(TASKS[kind], mirror=tmp_path / "mirror") for kind in kinds]


def test_mtebs_cache_reads_back_equal_scores(tasks, tmp_path, encoder):
    made = {
        (task.facts.name, shots): artefact(
            tmp_path / f"{task.facts.name}-{shots}", task, encoder, FEW[:shots]
        )
        for task in tasks
        for shots in (0, 2)
    }
    written = write_mteb_results([folder for folder, _ in made.values()], tmp_path / "out")
    assert len(written.files) == 6
    assert not written.skipped
    results = tmp_path / "out" / "results" / "icl-embed__toy" / "abc"
    (experiment,) = (results / "experiments").iterdir()
    cache = ResultCache(tmp_path / "out")
    for (name, shots), (_, score) in made.items():
        folder = experiment.name if shots else None
        found = cache.load_task_result(name, "icl-embed/toy", "abc", experiment_name=folder)
        assert found.get_score() == pytest.approx(score, abs=1e-6)
    loaded = cache.load_results(tasks=[task.facts.name for task in tasks])
    assert {result.model_name for result in loaded.model_results} == {"icl-embed/toy"}


def test_model_metadata_names_the_checkpoint_and_the_experiment(tasks, tmp_path, encoder):
    few = {"selection": "nearest", "seed": 3, "quality": "clean"}
    folder, _ = artefact(tmp_path / "few", tasks[0], encoder, FEW, **few)
    (path,) = write_mteb_results([folder], tmp_path / "out").files
    meta = json.loads((path.parent / "model_meta.json").read_text())
    assert (meta["name"], meta["revision"]) == ("icl-embed/toy", "abc")
    kwargs = meta["experiment_kwargs"]
    assert (kwargs["shots"], kwargs["selection"], kwargs["seed"]) == (2, "nearest", 3)
    assert len(kwargs["examples"]) == 16


def test_other_examples_are_another_experiment(tasks, tmp_path, encoder):
    first, _ = artefact(tmp_path / "first", tasks[0], encoder, FEW)
    other, _ = artefact(tmp_path / "other", tasks[0], encoder, FEW[::-1])
    (one,) = write_mteb_results([first], tmp_path / "out").files
    (two,) = write_mteb_results([other], tmp_path / "out").files
    assert one.parent != two.parent


def test_sets_that_mteb_does_not_know_are_skipped_and_named(tmp_path, encoder):
    write_set(tmp_path / "mirror", "sts", name="own", task=None)
    folder, _ = artefact(tmp_path / "own", open_mteb_task("own", mirror=tmp_path / "mirror"), encoder)
    written = write_mteb_results([folder], tmp_path / "out")
    assert written.files == ()
    assert dict(written.skipped) == {"own, toy, zero-shot": "mteb has no such task"}


def test_two_different_scores_of_one_thing_are_refused(tasks, tmp_path, encoder):
    first, _ = artefact(tmp_path / "first", tasks[1], encoder)
    second, _ = artefact(tmp_path / "second", tasks[1], encoder)
    assert len(write_mteb_results([first, second], tmp_path / "out").files) == 1  # equal: one result
    path = second / "mteb" / "zero-shot.json"
    fields = json.loads(path.read_text())
    fields["scores"]["test"][0]["main_score"] = 0.123
    path.write_text(json.dumps(fields))
    with pytest.raises(EvaluationError, match=r"both hold STSBenchmark \(test, default\)"):
        write_mteb_results([first, second], tmp_path / "out")


def test_a_damaged_result_is_told(tasks, tmp_path, encoder):
    folder, _ = artefact(tmp_path / "bad", tasks[1], encoder)
    (folder / "mteb" / "zero-shot.json").write_text("{")
    with pytest.raises(EvaluationError, match="is not a result of mteb"):
        write_mteb_results([folder], tmp_path / "out")


def test_a_result_of_another_benchmark_is_skipped(tasks, tmp_path, encoder):
    folder, _ = artefact(tmp_path / "air", tasks[1], encoder)
    (folder / "mteb" / "zero-shot.json").unlink()
    assert list(write_mteb_results([folder], tmp_path / "out").skipped.values()) == [
        "it is not a result of mteb"
    ]
