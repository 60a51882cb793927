"""A local base model is known by what is in its folder: not by where it lies, and not by what lay there before."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from icl_embed.errors import ConfigError, ModelError
from icl_embed.pipeline.build import build
from icl_embed.pipeline.plan import plan
from icl_embed.pipeline.run import open_run
from icl_embed.pipeline.stages.base_model import DIGESTS_NAME, folder_content, refuse_unfit_folder
from icl_embed.store import digests
from icl_embed.store.files import sha256_of
from icl_embed.store.lineage import sources_of
from tests.tiny_models import build_model
from tests.tiny_project import build_project


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    return build_project(tmp_path)


def replaced_in_place(model: Path) -> None:
    """Other weights of the same size, in the same file, with the same date."""
    weights = model / "model.safetensors"
    status = weights.stat()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    with weights.open("r+b") as handle:
        handle.write(data)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


def test_weights_replaced_in_place_are_another_model(preset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "SETTLED_SECONDS", 0.0)  # remember at once
    before = open_run(str(preset))
    build(before, before.keys.base_model)
    replaced_in_place(preset.parent / "model")
    after = open_run(str(preset))
    [planned] = plan(after.store, [after.keys.base_model])
    assert not planned.is_cached
    assert planned.reason.startswith("settings.content: ")
    assert after.keys.embedder.fingerprint != before.keys.embedder.fingerprint
    found = [build(run, run.keys.base_model).path / "model.safetensors" for run in (before, after)]
    assert sha256_of(found[0]) != sha256_of(found[1])


def test_a_folder_that_is_renamed_or_copied_is_the_same_model(preset: Path, tmp_path: Path) -> None:
    before = [key.reference for key in open_run(str(preset)).keys]
    (preset.parent / "model").rename(tmp_path / "elsewhere")
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "copy")
    for name in ("elsewhere", "copy"):
        run = open_run(str(preset), [f"model.name={tmp_path / name}"])
        assert [key.reference for key in run.keys] == before
        assert run.keys.base_model.label == name


def test_only_what_loading_reads_counts(preset: Path) -> None:
    model = preset.parent / "model"
    memory = preset.parent / DIGESTS_NAME
    before = folder_content(model, memory)
    (model / "README.md").write_text("notes")
    (model / "pytorch_model.bin").write_bytes(b"older weights, which safetensors go before")
    (model / "runs").mkdir()
    (model / "runs" / "log.json").write_text("{}")
    assert folder_content(model, memory) == before
    (model / "generation_config.json").write_text('{"max_length": 7}')
    assert folder_content(model, memory) != before


def test_links_into_a_cache_are_read_as_the_files_they_are(preset: Path, tmp_path: Path) -> None:
    model = preset.parent / "model"
    before = folder_content(model, tmp_path / DIGESTS_NAME)
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in model.iterdir():
        (linked / path.name).symlink_to(path)
    assert folder_content(linked, tmp_path / DIGESTS_NAME) == before


def test_an_untouched_file_is_read_once(preset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fourteen gigabytes at every plan would take minutes: what is remembered is believed."""
    monkeypatch.setattr(digests, "SETTLED_SECONDS", 0.0)
    model, memory = preset.parent / "model", preset.parent / DIGESTS_NAME
    whole = folder_content(model, memory)
    known = json.loads(memory.read_bytes())
    memory.write_text(json.dumps({place: (state, "0" * 64) for place, (state, _) in known.items()}))
    assert folder_content(model, memory) != whole, "the digests come from the memory"
    for path in model.iterdir():
        os.utime(path)
    assert folder_content(model, memory) == whole, "a touched file is read again"
    memory.write_text("{damaged")
    assert folder_content(model, memory) == whole


def test_a_file_that_was_just_written_is_not_believed_yet(preset: Path) -> None:
    memory = preset.parent / DIGESTS_NAME
    folder_content(preset.parent / "model", memory)
    assert not memory.exists() or json.loads(memory.read_bytes()) == {}


def test_a_folder_that_changes_between_plan_and_build_is_refused(preset: Path) -> None:
    run = open_run(str(preset))
    assert run.keys.base_model
    replaced_in_place(preset.parent / "model")
    with pytest.raises(ModelError, match="changed while the run read it; run again"):
        build(run, run.keys.base_model)
    assert not run.store.is_valid(run.keys.base_model)


def test_a_folder_that_is_not_there_is_named(preset: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.name is nowhere, which is not a folder"):
        _ = open_run(str(preset), ["model.name=nowhere"]).keys


def test_lineage_names_the_folder_and_its_content(preset: Path) -> None:
    run = open_run(str(preset))
    artefact = build(run, run.keys.base_model)
    [source] = sources_of(artefact.manifest)
    assert source == f"local model (content {run.keys.base_model.settings['content']})"


def test_a_model_of_the_hub_is_looked_at_as_soon_as_it_is_there(tmp_path: Path) -> None:
    """A copy in the store stands for one that was fetched."""
    preset = build_project(tmp_path)
    build_model(tmp_path / "model", "mistral", sliding_window=128)
    pinned = ["model.source=hub", "model.name=some/model", f"model.version={'0' * 40}"]
    run = open_run(str(preset), pinned)
    key = run.keys.base_model  # nothing is known yet
    with pytest.raises(ConfigError, match="looks back 128 tokens"):
        refuse_unfit_folder(run.config, run.config.model, tmp_path / "model")

    def copy(out: Path) -> dict[str, int]:
        shutil.copytree(tmp_path / "model", out, dirs_exist_ok=True)
        return {}

    run.store.build(key, copy)
    with pytest.raises(ConfigError, match="looks back 128 tokens"):
        _ = open_run(str(preset), pinned).keys
