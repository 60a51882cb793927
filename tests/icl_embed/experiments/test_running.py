"""Studies on small data sets: what is asked, what is shared, what is said when something cannot be measured."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.command_line import app
from icl_embed.config import PromptConfig
from icl_embed.errors import ConfigError, EvaluationError
from icl_embed.evaluation.grid import RunRequest, run_grid
from icl_embed.evaluation.models import open_model
from icl_embed.evaluation.scores import read_examples
from icl_embed.evaluation.tasks.opening import open_task
from icl_embed.experiments.curves import quality_settings, study_examples, study_shots
from icl_embed.experiments.measuring import study_overhead, study_overlap
from icl_embed.experiments.overhead import OverheadPlan
from icl_embed.experiments.record import read_study
from icl_embed.few_shot.settings import AskedSetting
from icl_embed.store import StageKey
from tests.icl_embed.evaluation.runs.local_store import add_dataset


def test_a_curve_has_every_shot_count_of_every_task_and_shares_scores_with_eval_run(
    store,
    model,
    encoder,
    request_of,
):
    tasks = add_dataset(store, "facts"), add_dataset(store, "pairs", "sts", base=100)
    request = request_of(*tasks)
    made, outcome = study_shots(request, model, store, shots=[3], seeds=[0, 1])
    study = read_study(made.path)
    assert len(outcome.measured) == 2 * (1 + 2)
    shown = {(row["task"], row["shots"]) for row in study.rows}
    assert shown == {(task, n) for task in (*tasks, "average of 2 tasks") for n in (0, 3)}
    assert all(row["seeds"] == (2 if row["shots"] else 1) for row in study.rows)
    asked = len(encoder.calls)
    again, second = study_shots(request, model, store, shots=[3], seeds=[0, 1])
    assert again == made
    assert not any(one.is_new for one in second.measured)
    run = run_grid(
        RunRequest(tasks, (AskedSetting(3, "random", 1),), request.places, config=request.config),
        model,
        store,
    )
    assert not any(one.is_new for one in run.measured)
    assert len(encoder.calls) == asked
    assert len(made.manifest.key["inputs"]) == len(outcome.measured)


def examples_of(outcome, task, quality):
    for one in outcome.measured:
        name = AskedSetting(3, quality=quality).name
        if one.artefact.manifest.label.endswith(f" on {task}, {name}"):
            return read_examples(one.artefact.path, name)
    raise AssertionError(f"{task} {quality} was not measured")


def test_each_quality_is_shown_to_the_model_as_it_says(store, model, request_of):
    tasks = add_dataset(store, "facts"), add_dataset(store, "pairs", "sts", base=100)
    own = {
        task: {row.example for row in open_task(task, request_of().places).training_examples()}
        for task in tasks
    }
    qualities = ["label-noise-100", "off-task", "duplicated"]
    made, outcome = study_examples(request_of(*tasks), model, store, shots=3, qualities=qualities, seeds=[0])
    for task, other in (tasks, tasks[::-1]):
        clean = examples_of(outcome, task, "clean")
        noisy = examples_of(outcome, task, "label-noise-100")
        assert set(clean) <= own[task]
        assert all(a.query == b.query and a.response != b.response for a, b in zip(clean, noisy, strict=True))
        assert {one.response for one in noisy} <= {one.response for one in own[task]}
        assert set(examples_of(outcome, task, "off-task")) <= own[other]
        assert len(set(examples_of(outcome, task, "duplicated"))) == 1
    rows = read_study(made.path).rows
    assert [row["quality"] for row in rows if row["task"] == tasks[0]] == ["zero-shot", "clean", *qualities]


def test_what_cannot_be_made_is_said_and_the_rest_is_measured(store, model, request_of):
    facts = add_dataset(store, "facts")
    made, outcome = study_examples(
        request_of(facts, "data/none"), model, store, shots=2, qualities=["off-task", "shuffled"], seeds=[0]
    )
    notes = read_study(made.path).facts["notes"]
    assert any("off-task" in note and "another task" in note for note in notes)
    assert any(note.startswith("data/none was not measured") for note in notes)
    assert {row["quality"] for row in read_study(made.path).rows} == {"zero-shot", "clean", "shuffled"}
    assert len(outcome.measured) == 3


def test_a_study_of_nothing_or_of_an_unknown_quality_is_an_error(store, model, request_of):
    with pytest.raises(EvaluationError, match="has no score: data/none"):
        study_shots(request_of("data/none"), model, store, shots=[1], seeds=[0])
    with pytest.raises(ConfigError, match="did you mean off-task"):
        quality_settings(3, ["of-task"], [0])


@pytest.fixture
def trained(store, tiny_model):
    """An embedder artefact whose training rows hold two of the evaluated texts of the data set facts."""
    facts = add_dataset(store, "facts")
    rows = pq.read_table(store.newest("dataset").path / "rows.parquet").to_pylist()
    seen = [row["query"] for row in rows if row["split"] == "test"][:2]

    def negatives(folder):
        texts = [*seen, "something else", "again"]
        pq.write_table(
            pa.table({"dataset": ["facts", "news", "news", "news"], "query": texts}), folder / "train.parquet"
        )
        return {}

    made = store.build(StageKey("negatives", 1, {}), negatives)

    def embedder(folder):
        for path in tiny_model.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return {}

    key = StageKey("embedder", 1, {}, {"negatives": made.reference}, label="tiny")
    return facts, seen, store.build(key, embedder)


def test_overlap_follows_the_lineage_and_names_the_sets_that_gave_a_text_away(store, trained, request_of):
    facts, seen, embedder = trained
    model = open_model("", store, prompt=PromptConfig())
    made = study_overlap(request_of(facts), model, store)
    study = read_study(made.path)
    queries, passages = study.rows
    assert (queries["role"], queries["num_equal"], queries["relation"]) == ("queries", 2, "trained on")
    assert queries["equal_by_dataset"] == {"facts": 1, "news": 1}
    assert [hit["evaluated"] for hit in queries["hits"]] == seen
    assert (passages["role"], passages["num_equal"]) == ("passages", 0)
    assert study.facts["rows_by_set"] == {"facts": 1, "news": 3}
    assert made.manifest.key["inputs"] == {"model": embedder.reference}


def test_overlap_of_a_model_from_elsewhere_asks_for_its_training_rows(store, tiny_model, request_of):
    facts = add_dataset(store, "facts")
    model = open_model(str(tiny_model), store, prompt=PromptConfig())
    with pytest.raises(EvaluationError, match="--train"):
        study_overlap(request_of(facts), model, store)


def test_overhead_is_measured_with_examples_of_the_task(store, tiny_model, request_of):
    facts = add_dataset(store, "facts")
    model = open_model(str(tiny_model), store, prompt=PromptConfig())
    plan = OverheadPlan((0, 2), batch=4, singles=2, rounds=1)
    study = read_study(study_overhead(request_of(facts), model, store, plan=plan).path)
    assert [(row["shots"], row["way"]) for row in study.rows] == [
        (shots, way) for shots in (0, 2) for way in ("shared", "in full")
    ]
    assert study.facts["machine"]["dtype"] == "float32"
    assert study.facts["machine"]["threads"] >= 1


def test_the_commands_work_together_up_to_the_page(store, trained, tmp_path, monkeypatch):
    facts, _, _ = trained
    monkeypatch.setenv("COLUMNS", "100")
    common = ["--tasks", facts, "--store", str(store.root), "--tokens", "64,64,256"]
    for argv in (
        ["study", "shots", *common, "--shots", "1,2"],
        ["study", "examples", *common, "--shots", "2", "--qualities", "shuffled,duplicated"],
        ["study", "overhead", *common, "--shots", "0,1", "--batch", "4", "--singles", "1", "--rounds", "1"],
        ["study", "overlap", "--tasks", facts, "--store", str(store.root)],
    ):
        result = CliRunner().invoke(app, argv, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert "study/" in result.output
    out = tmp_path / "page"
    result = CliRunner().invoke(app, ["eval", "report", "-o", str(out), "--store", str(store.root)])
    assert result.exit_code == 0, result.output
    page = (out / "benchmark.html").read_text(encoding="utf-8")
    assert all(f'<section id="{name}">' in page for name in ("scores", "shots", "quality", "cost", "overlap"))
    with pytest.raises(EvaluationError, match="no scores of 'nobody'"):
        CliRunner().invoke(
            app,
            ["eval", "report", "-o", str(out), "--store", str(store.root), "--model", "nobody"],
            catch_exceptions=False,
        )


def test_a_study_names_its_scores_for_lineage(store, model, request_of):
    facts = add_dataset(store, "facts")
    made, outcome = study_shots(request_of(facts), model, store, shots=[1], seeds=[0])
    assert set(made.manifest.key["inputs"].values()) == {one.artefact.reference for one in outcome.measured}
    assert json.loads((made.path / "study.json").read_text())["name"] == "shots"
