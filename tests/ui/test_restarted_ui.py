"""A restart of ``icl-embed ui`` undoes nothing that an operator did, and brings what is new."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ui.running_ui import ROOT, RunningUi

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def ui(tmp_path: Path) -> Iterator[RunningUi]:
    """The UI of a checkout whose prefect.yaml may be edited."""
    root = tmp_path / "checkout"
    for room in ("flows", "tasks", "icl_embed"):
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", root)
    running = RunningUi(tmp_path, root)
    running.start()
    yield running
    running.stop()


def restart(ui: RunningUi) -> str:
    ui.stop()
    ui.start()
    return ui.log.read_text()


def edit(ui: RunningUi, name: str, **changes: Any) -> None:
    path = ui.root / "prefect.yaml"
    project = yaml.safe_load(path.read_text())
    [entry] = [one for one in project["deployments"] if one["name"] == name]
    entry.update(changes)
    path.write_text(yaml.safe_dump(project))


def schedules(ui: RunningUi) -> set[tuple[str, bool]]:
    found = ui.deployment("re-evaluate")["schedules"]
    return {(one["slug"] or str(one["schedule"].get("interval")), one["active"]) for one in found}


def test_what_an_operator_changed_outlives_restarts_and_new_definitions(ui: RunningUi) -> None:
    before = ui.deployment("re-evaluate")
    [weekly], path = before["schedules"], f"/deployments/{before['id']}"
    ui.ask(f"{path}/schedules/{weekly['id']}", "PATCH", active=True)
    ui.request("POST", f"{path}/schedules", [{"schedule": {"interval": 86400.0}, "active": True}])
    ui.ask(path, "PATCH", parameters={"preset": "laptop"}, tags=["mine"], concurrency_limit=2)
    ui.ask("/work_pools/local", "PATCH", concurrency_limit=3)
    wanted = {("weekly", True), ("86400.0", True)}

    assert "deployed: nothing" in restart(ui)
    check_kept(ui, wanted)

    # a changed definition and a new one
    edit(ui, "re-evaluate", description="Another text", tags=["theirs"], parameters={"level": 0.01})
    project = yaml.safe_load((ui.root / "prefect.yaml").read_text())
    [pipeline] = [one for one in project["deployments"] if one["name"] == "full-pipeline"]
    project["deployments"].append({**pipeline, "name": "nightly"})
    (ui.root / "prefect.yaml").write_text(yaml.safe_dump(project))
    assert "deployed: re-evaluate, nightly" in restart(ui)
    check_kept(ui, wanted)
    after = ui.deployment("re-evaluate")
    assert (after["id"], after["description"]) == (before["id"], "Another text")
    assert after["parameters"] == {"preset": "laptop", "level": 0.01}
    assert ui.ask("/deployments/name/full-pipeline/nightly", "GET")["schedules"] == []

    # what was kept once is kept again, and what the operator never touched follows the definition
    edit(ui, "re-evaluate", parameters={"level": 0.02}, schedules=[])
    ui.ask(f"{path}/schedules/{schedule_id(ui, 'weekly')}", "PATCH", active=False)  # as it was defined
    assert "deployed: re-evaluate\n" in restart(ui)
    check_kept(ui, {("86400.0", True)})
    assert ui.deployment("re-evaluate")["parameters"] == {"preset": "laptop", "level": 0.02}


def schedule_id(ui: RunningUi, slug: str) -> str:
    [found] = [one["id"] for one in ui.deployment("re-evaluate")["schedules"] if one["slug"] == slug]
    return str(found)


def check_kept(ui: RunningUi, wanted: set[tuple[str, bool]]) -> None:
    deployment = ui.deployment("re-evaluate")
    assert schedules(ui) == wanted
    assert deployment["parameters"]["preset"] == "laptop"
    assert deployment["tags"] == ["mine"]
    assert deployment["global_concurrency_limit"]["limit"] == 2
    assert ui.ask("/work_pools/local", "GET")["concurrency_limit"] == 3
