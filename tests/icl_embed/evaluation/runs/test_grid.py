"""A run over tasks and settings: resumed, shared, and honest about what it could not measure."""

import json

import numpy as np
import pytest

from icl_embed.config import EvaluateConfig
from icl_embed.errors import ConfigError, EvaluationError
from icl_embed.evaluation.grid import RunRequest, run_grid
from icl_embed.evaluation.measurement import Bootstrap, compare
from icl_embed.evaluation.models import OpenedModel
from icl_embed.evaluation.score import Cell
from icl_embed.evaluation.scores import read_examples, read_measurements, read_ranking, read_scores
from icl_embed.evaluation.summary import as_json, summarise
from icl_embed.evaluation.tasks.opening import TaskPlaces, open_task, split_names, task_names
from icl_embed.evaluation.tasks.task import EvaluatedModel
from icl_embed.few_shot.settings import AskedSetting, settings_of
from tests.icl_embed.evaluation.folders import row
from tests.icl_embed.evaluation.runs.conftest import opened
from tests.icl_embed.evaluation.runs.local_store import KINDS, add_dataset, rows_of

SETTINGS = tuple(settings_of([0, 2], ["random"], [0, 1]))


@pytest.fixture
def request_of(store, config):
    def make(*tasks, asked=SETTINGS, **more):
        places = TaskPlaces(store, config=config)
        return RunRequest(tuple(task_names(tasks, places)), tuple(asked), places, config=config, **more)

    return make


def summary_of(outcome, model):
    return summarise(outcome, model.shown.name, Bootstrap(100))


def test_every_cell_is_an_artefact_that_says_everything(store, model, request_of):
    task = add_dataset(store, "facts")
    outcome = run_grid(request_of(task), model, store)
    assert len(outcome.measured) == 3
    for one, asked in zip(outcome.measured, SETTINGS, strict=True):
        folder = one.artefact.path
        scores = read_scores(folder)
        (result,) = scores.results
        assert (scores.dataset, scores.family, scores.model) == (task, "local", "toy")
        assert (result.setting, result.shots, result.seed) == (asked.name, asked.shots, asked.seed)
        assert result.examples_shown == asked.shots
        assert read_measurements(folder, scores)[asked.name].point == pytest.approx(result.mean)
        assert len(read_ranking(folder)) == result.num_queries
        shown = json.loads((folder / "examples.json").read_text())[asked.name]
        assert (shown["seed"], len(shown["examples"])) == (asked.seed, asked.shots)
        assert shown["tokens"]["mean"] == result.query_tokens_mean
        assert json.loads((folder / "mteb" / f"{asked.name}.json").read_text())["model"]["revision"]
        assert one.artefact.manifest.key["inputs"]["dataset"].startswith("dataset/")
    first, second = (
        read_examples(one.artefact.path, one_asked.name)
        for one, one_asked in zip(outcome.measured[1:], SETTINGS[1:], strict=True)
    )
    assert first != second


def test_a_score_says_whether_the_model_was_trained_on_the_task(store, encoder, request_of, tmp_path):
    tasks = [add_dataset(store, name) for name in ("seen", "unseen")]
    model = opened(encoder, tmp_path, trained_on=frozenset({"seen"}))
    outcome = run_grid(request_of(*tasks, asked=SETTINGS[:1]), model, store)
    assert [read_scores(one.artefact.path).trained_on for one in outcome.measured] == [True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_measured_and_never_twice(store, model, encoder, request_of, kind):
    task = add_dataset(store, f"toy-{kind}", kind)
    first = summary_of(run_grid(request_of(task), model, store), model)
    calls = len(encoder.calls)
    again = run_grid(request_of(task), model, store)
    assert len(encoder.calls) == calls
    assert not any(one.is_new for one in again.measured)
    second = summary_of(again, model)
    assert second.tasks[0].groups[0].interval == first.tasks[0].groups[0].interval
    assert first.is_complete


def test_no_text_is_encoded_twice_for_one_prompt(store, model, encoder, request_of):
    tasks = [add_dataset(store, f"toy-{kind}", kind, base=2000 * n) for n, kind in enumerate(KINDS)]
    run_grid(request_of(*tasks), model, store)
    seen = [json.dumps(call) for call in encoder.calls]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(
    "change",
    ["model", "instruction", "tokens", "seed of the draw", "data", "classifiers"],
)
def test_whatever_decides_the_number_is_measured_anew(
    store, model, encoder, request_of, config, change, tmp_path
):
    task = add_dataset(store, "toy", "classification")
    run_grid(request_of(task), model, store)
    asked, more = SETTINGS, {}
    if change == "model":
        model = opened(encoder, tmp_path, name="other", fingerprint="99")
    elif change == "instruction":
        more = {"instructions": {task: "say it another way"}}
    elif change == "tokens":
        prompt = model.prompt.model_copy(update={"query_tokens": 40})
        model = OpenedModel(model.about, "ours", prompt)
        model.__dict__["encoder"] = encoder
    elif change == "seed of the draw":
        asked = (AskedSetting(2, "random", 5),)
    elif change == "data":
        add_dataset(store, "toy", "classification", base=7)
    request = request_of(task, asked=asked, **more)
    if change == "classifiers":
        places = TaskPlaces(store, config=config.model_copy(update={"label_experiments": 3}))
        request = RunRequest(request.tasks, asked, places, config=places.config)
    assert all(one.is_new for one in run_grid(request, model, store).measured)


def test_a_damaged_score_is_measured_again(store, model, encoder, request_of):
    task = add_dataset(store, "toy")
    first = run_grid(request_of(task), model, store).measured[0].artefact
    (first.path / "scores.json").write_text("{}")
    again = run_grid(request_of(task), model, store)
    assert [one.is_new for one in again.measured] == [True, False, False]
    assert read_scores(first.path).results[0].encoded_queries == 0  # its vectors were still there


def test_two_models_with_one_name_are_refused_before_any_work(store, model, encoder, request_of, tmp_path):
    task = add_dataset(store, "toy")
    run_grid(request_of(task), model, store)
    calls = len(encoder.calls)
    other = opened(encoder, tmp_path, fingerprint="ffeeddcc")
    with pytest.raises(EvaluationError, match="another model that is called 'toy'.*--name toy-ffeedd"):
        run_grid(request_of(task), other, store)
    assert len(encoder.calls) == calls


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "is not finite"), (0.0, "is zero and has no direction")]
)
def test_a_vector_that_means_nothing_fails_its_task_and_leaves_no_score(
    store, model, encoder, request_of, value, message
):
    good, bad = add_dataset(store, "good", "sts"), add_dataset(store, "bad", "retrieval", base=3000)
    encoder.encode_passages = lambda texts, **_: np.full((len(texts), encoder.dimension), value, np.float32)
    outcome = run_grid(request_of(bad, good), model, store)
    assert [one.task for one in outcome.failed] == [bad] * 3
    assert message in outcome.failed[0].reason
    assert outcome.failed[0].reason.startswith("EvaluationError")
    assert len(outcome.measured) == 3
    summary = summary_of(outcome, model)
    assert not summary.is_complete
    assert len([one for one in store.artefacts() if one.stage == "score"]) == 3


def test_a_task_that_is_not_there_is_listed_and_the_others_are_measured(store, model, request_of, config):
    task = add_dataset(store, "cwe-facts")
    outcome = run_grid(request_of("data/cwe-fact", task), model, store)
    assert [one.task for one in outcome.missing] == ["data/cwe-fact"]
    assert "did you mean data/cwe-facts?" in outcome.missing[0].reason
    assert len(outcome.measured) == 3


def test_broken_data_fail_their_task_alone(store, model, request_of):
    rows = rows_of("sts", 0, 6)
    for one in rows:
        one["score"] = 1.0
    outcome = run_grid(
        request_of(add_dataset(store, "flat", "sts", rows=rows), add_dataset(store, "fine")), model, store
    )
    assert "nothing to correlate" in outcome.failed[0].reason
    assert len(outcome.measured) == 3


def test_a_task_without_examples_has_its_settings_recorded_as_absent(store, model, request_of):
    task = add_dataset(store, "tests-only", rows=rows_of("retrieval", 0, 6)[6:])
    outcome = run_grid(request_of(task), model, store)
    assert [one.setting for one in outcome.absent] == ["2-shot", "2-shot seed 1"]
    assert "no training split" in outcome.absent[0].reason
    with pytest.raises(EvaluationError, match="2-shot is required, but the task has no training split"):
        run_grid(request_of(task, require_few_shot=True), model, store)


def test_bm25_is_asked_once_and_says_what_it_cannot_do(store, request_of, tmp_path):
    bm25 = OpenedModel(EvaluatedModel("bm25", "v1", tmp_path, dtype="none"), "bm25")
    outcome = run_grid(
        request_of(add_dataset(store, "facts"), add_dataset(store, "pairs", "sts")), bm25, store
    )
    (one,) = outcome.measured
    assert read_scores(one.artefact.path).results[0].setting == "bm25"
    assert [(one.task, one.setting) for one in outcome.absent] == [("data/pairs", "bm25")]
    assert "it cannot do sts" in outcome.absent[0].reason


def test_without_a_word_to_go_by_bm25_has_no_score_instead_of_zero(store, request_of, tmp_path):
    bm25 = OpenedModel(EvaluatedModel("bm25", "v1", tmp_path, dtype="none"), "bm25")
    rows = [row("test", n, f"вопрос{n}", positives=[f"answer{n} of many"]) for n in range(6)]
    outcome = run_grid(request_of(add_dataset(store, "foreign", rows=rows)), bm25, store)
    assert not outcome.measured and not outcome.failed
    (one,) = outcome.absent
    assert one.task == "data/foreign" and "none of the 6 queries has a word" in one.reason
    task = open_task("data/foreign", TaskPlaces(store))
    Cell(bm25, task, None, None, "", EvaluateConfig()).measure_or_say(
        tmp_path, None
    )  # as a stage of the flow
    scores = read_scores(tmp_path)
    assert not scores.results and scores.absent[0].reason == one.reason


def test_the_summary_averages_seeds_then_tasks_and_pairs_gains(store, model, request_of):
    tasks = [
        add_dataset(store, f"toy-{kind}", kind, base=2000 * n, size=24)
        for n, kind in enumerate(("retrieval", "sts"))
    ]
    outcome = run_grid(request_of(*tasks), model, store)
    summary, how = summary_of(outcome, model), Bootstrap(100)
    for task in summary.tasks:
        few, zero = task.of("2-shot"), task.of("zero-shot")
        draws = [cell.result.mean for cell in few.cells]
        assert few.interval.mean == pytest.approx(np.mean(draws))
        assert few.spread == pytest.approx(np.std(draws, ddof=1))
        assert few.over_zero.mean == pytest.approx(np.mean(draws) - zero.interval.mean)
        assert few.over_zero == compare(few.measured, zero.measured, how)
        assert zero.over_zero is None
    zero, few = summary.averages
    assert few.interval.mean == pytest.approx(np.mean([t.of("2-shot").interval.mean for t in summary.tasks]))
    by_seed = [np.mean([t.of("2-shot").cells[n].result.mean for t in summary.tasks]) for n in (0, 1)]
    assert few.spread == pytest.approx(np.std(by_seed, ddof=1))
    assert few.over_zero.mean == pytest.approx(few.interval.mean - zero.interval.mean)
    text = as_json(summary, model)
    assert json.loads(json.dumps(text, allow_nan=False)) == text
    assert text["measured_now"]["cells"] == 6
    assert [one["group"] for one in text["tasks"][0]["groups"]] == ["zero-shot", "2-shot"]
    settings = [one for task in text["tasks"] for one in task["settings"]]
    assert {"artefact", "mean", "low", "high", "query_tokens_mean", "seconds", "seed"} <= set(settings[0])


def test_averages_of_settings_are_over_the_same_tasks(store, model, request_of):
    names = [add_dataset(store, f"toy-{n}", "sts", base=3000 * n) for n in range(2)]
    names.append(add_dataset(store, "no-examples", rows=rows_of("retrieval", 9000, 6)[6:]))
    summary = summary_of(run_grid(request_of(*names), model, store), model)
    assert [(one.name, one.tasks) for one in summary.averages] == [("zero-shot", 2), ("2-shot", 2)]
    zero, few = (one.interval.mean for one in summary.averages)
    assert summary.averages[1].over_zero.mean == pytest.approx(few - zero)


def test_names_are_split_outside_of_brackets_and_named_once(store, config):
    assert split_names("A, MTEB(eng, v2) ,STS22[de],,") == ["A", "MTEB(eng, v2)", "STS22[de]"]
    places = TaskPlaces(store, config=config)
    with pytest.raises(ConfigError, match="'data/a' is named 2 times"):
        task_names(["data/a", "data/a"], places)
    with pytest.raises(ConfigError, match="no task was named"):
        task_names([], places)
    with pytest.raises(ConfigError, match="did you mean.*SciFact"):
        task_names(["SciFatc"], places)
    with pytest.raises(EvaluationError, match="air-bench"):
        task_names(["air-bench/qa_wikii_en"], places)


def test_a_wrong_split_is_an_error_of_its_task(tmp_path, store, config):
    places = TaskPlaces(store, mirror=tmp_path, split="tst", config=config)
    with pytest.raises(EvaluationError):
        open_task("SciFact", places)
