"""Benchmark tasks when things go wrong: a hub that stumbles, a hub that refuses, a run that is killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from icl_embed.evaluation.scores import read_scores
from icl_embed.store import Store
from tests.faults.test_killed_pipeline import read_until
from tests.flows.running import ROOT, flow_command, flow_environment, task_states
from tests.icl_embed.evaluation.mteb.mirrors import write_set
from tests.icl_embed.evaluation.mteb.test_hub_layout import hub_copy, official
from tests.icl_embed.sources.web import Answer, Site, running_site, status
from tests.tiny_project import build_project

TASK = "STSBenchmark"


def file_of_a_commit(data: bytes, commit: str) -> Answer:
    """A file as the hub gives it: what it is in the headers, the rest for whoever asks by GET."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        handler.send_header("X-Repo-Commit", commit)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(data)

    return answer


def listing(folder: Path) -> Answer:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    found = [
        {"type": "file", "oid": "0" * 40, "size": path.stat().st_size, "path": str(path.relative_to(folder))}
        for path in files
    ]
    body = json.dumps(found).encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Site, str, Path]]:
    """A stand-in of the hub, the address of the task's list of files, and the files."""
    folder, source = hub_copy(tmp_path, "sts"), official(TASK)
    tree = f"/api/datasets/{source['path']}/tree/{source['revision']}?recursive=true&expand=false"
    with running_site() as site:
        for path in (one for one in folder.rglob("*") if one.is_file()):
            name = path.relative_to(folder).as_posix()
            address = f"/datasets/{source['path']}/resolve/{source['revision']}/{name}"
            site.on(address, file_of_a_commit(path.read_bytes(), source["revision"]))
        yield site, tree, folder


def benchmark(preset: Path, site: Site | None, *overrides: str) -> subprocess.CompletedProcess[str]:
    asked = [f'evaluate.tasks=["{TASK}"]', "evaluate.settings.shots=[0]", *overrides]
    hub = (
        {"HF_ENDPOINT": site.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(preset.parent / "hf")} if site else {}
    )
    return subprocess.run(
        flow_command("benchmark", preset, asked, ["--model", str(preset.parent / "model")]),
        cwd=preset.parent,
        env={**flow_environment(preset), **hub},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.mark.slow
def test_a_hub_that_fails_twice_is_asked_again(hub: tuple[Site, str, Path], tmp_path: Path) -> None:
    site, tree, folder = hub
    site.on(tree, status(520), status(520), listing(folder))
    done = benchmark(build_project(tmp_path / "project"), site)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert [path for path, _ in site.requests].count(tree) == 3
    [score] = [one for one in Store(tmp_path / "project" / "store").artefacts() if one.stage == "score"]
    assert (read_scores(score.path).dataset, read_scores(score.path).served_from) == (TASK, "hub")


@pytest.mark.slow
def test_a_hub_that_does_not_have_it_is_asked_once(hub: tuple[Site, str, Path], tmp_path: Path) -> None:
    site, tree, _ = hub
    site.on(tree, status(404))
    done = benchmark(build_project(tmp_path / "project"), site)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"{TASK} is missing: cannot get" in done.stdout.replace("\n", " ")
    assert [path for path, _ in site.requests].count(tree) == 1
    failed = benchmark(tmp_path / "project" / "tiny.toml", site, "evaluate.on_missing=fail")
    assert failed.returncode == 2
    assert f"1 of 1 benchmark tasks cannot be had: {TASK}" in failed.stderr


@pytest.mark.slow
def test_a_run_killed_after_three_scores_goes_on(tmp_path: Path) -> None:
    preset = build_project(tmp_path)
    for kind in ("retrieval", "classification", "sts"):
        write_set(tmp_path / "mirror", kind)
    tasks = json.dumps(["SciFact", "Banking77Classification", "STSBenchmark"])
    asked = [f"evaluate.tasks={tasks}", f"evaluate.mirror={tmp_path / 'mirror'}"]
    asked += ["evaluate.prompt.query_tokens=128"]  # the tasks' instructions are long for a toy tokenizer
    command = flow_command("benchmark", preset, asked, ["--model", str(tmp_path / "model")])
    killed = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=flow_environment(preset),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    for _ in range(3):
        while ": done in" not in read_until(killed, "score model on").splitlines()[-1]:
            pass
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    store = Store(tmp_path / "store")
    before = {one.path: one.manifest.created for one in store.artefacts() if one.stage == "score"}
    assert 3 <= len(before) < 6
    again = subprocess.run(
        command, cwd=tmp_path, env=flow_environment(preset), capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    after = {one.path: one.manifest.created for one in store.artefacts() if one.stage == "score"}
    assert len(after) == 6
    assert before.items() <= after.items()
    assert task_states(again.stdout + again.stderr)["Completed"] == 6 - len(before)


BAD = [
    (['evaluate.tasks=["SciFatc"]'], "SciFact"),
    (['evaluate.tasks=["MTEB(eng, v9)"]'], "MTEB(eng, v2)"),
    (['evaluate.tasks=["air-bench/qa_wikii_en"]'], "air-bench/qa_wiki_en"),
    (['evaluate.tasks=["data/tiny-nots"]'], "tiny-notes"),
    (["evaluate.tasks=[]"], "set evaluate.tasks"),
    (['evaluate.tasks=["SciFact", "SciFact"]'], "is named 2 times"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("overrides", "told"), BAD, ids=[told for _, told in BAD])
def test_what_cannot_be_asked_is_one_message_and_leaves_nothing(
    overrides: list[str], told: str, tmp_path: Path
) -> None:
    preset = build_project(tmp_path)
    done = benchmark(preset, None, *overrides)
    assert done.returncode == 2, done.stdout[-2000:]
    assert told in done.stderr
    assert 'File "' + str(ROOT / "icl_embed") not in done.stdout + done.stderr  # no traceback of ours
    assert not [one for one in Store(tmp_path / "store").artefacts() if one.stage in ("score", "task-data")]
