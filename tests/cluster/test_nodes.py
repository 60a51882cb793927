"""Training on two nodes: two network namespaces on this machine, with a cable between them and a shared folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from icl_embed.errors import ConfigError, TrainingError
from icl_embed.launch.processes import children_of
from icl_embed.pipeline.build import build
from icl_embed.pipeline.run import Run, open_run
from icl_embed.train.metrics import METRICS_NAME, read_metrics, step_lines
from tests.tiny_project import build_project

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[2]
PORT = 29517
TRAIN = ("train.optimizer.steps=6", "train.launch.threads=1")
FIRST = """
import sys
from icl_embed.pipeline.build import build
from icl_embed.pipeline.run import open_run
run = open_run(sys.argv[1], sys.argv[2:])
build(run, run.keys.embedder, lambda line: print(line, flush=True))
"""
JOIN = "from flows.command_line import main; main()"


@dataclass(frozen=True)
class Nodes:
    """Two namespaces, the addresses of their ends of the cable."""

    names: tuple[str, str]
    addresses: tuple[str, str]

    def start(self, node: int, *argv: str) -> subprocess.Popen[str]:
        """A process on a node."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.names[node], sys.executable, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )

    def join(self, store: Path, seconds: float = 20) -> subprocess.Popen[str]:
        """``icl-embed join`` on the second node."""
        return self.start(1, "-c", JOIN, "join", str(store), "--wait", str(seconds))


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command ip")
    mark = f"icl{os.getpid() % 10_000}"
    names, ends = (f"{mark}a", f"{mark}b"), (f"{mark}x", f"{mark}y")
    addresses = ("10.77.31.1", "10.77.31.2")
    ip("netns", "add", names[0])
    ip("netns", "add", names[1])
    try:
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for name, end, address in zip(names, ends, addresses, strict=True):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield Nodes(names, addresses)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def ip(*argv: str) -> None:
    found = subprocess.run(["ip", *argv], check=False, capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"ip {' '.join(argv)}: {found.stderr.strip()}")


@pytest.fixture
def prepared(tmp_path: Path) -> Run:
    """A project whose embedder is all that is left to build."""
    run = open_run(str(build_project(tmp_path)), TRAIN)
    for key in (*run.keys.datasets.values(), run.keys.pool, run.keys.base_model, run.keys.negatives):
        build(run, key)
    return run


def two_nodes(nodes: Nodes, *more: str) -> list[str]:
    launch = {"processes": 1, "nodes": 2, "rendezvous": f"{nodes.addresses[0]}:{PORT}", "join_seconds": 60}
    return [*TRAIN, *(f"train.launch.{name}={json.dumps(value)}" for name, value in launch.items()), *more]


def losses(run: Run) -> list[float]:
    metrics = run.artefact(run.keys.embedder).path / METRICS_NAME
    return [line["loss"] for line in step_lines(read_metrics(metrics))]


def weights(run: Run) -> bytes:
    return (run.artefact(run.keys.embedder).path / "model.safetensors").read_bytes()


def test_two_nodes_train_what_two_ranks_of_one_machine_train(prepared: Run, nodes: Nodes) -> None:
    both = open_run(prepared.preset, two_nodes(nodes))
    joined = nodes.join(prepared.store.root)
    first = nodes.start(0, "-c", FIRST, prepared.preset, *two_nodes(nodes))
    said = first.communicate(timeout=240)[0]
    assert first.returncode == 0, said
    assert "waiting for 1 more nodes; run on each: icl-embed join" in said and "all 2 nodes are here" in said
    found = losses(both), weights(both)
    told = joined.communicate(timeout=60)[0]
    assert joined.returncode == 0 and "joined as node 1 of 2" in told and ": done" in told, told
    both.artefact(both.keys.embedder).path.rename(prepared.store.root / "aside")
    alone = open_run(prepared.preset, [*TRAIN, "train.launch.processes=2"])
    assert alone.keys.embedder == both.keys.embedder, "how a job is launched is in no key"
    build(alone, alone.keys.embedder)
    assert (losses(alone), weights(alone)) == found, "bit for bit"


def test_a_lost_node_ends_the_job_and_the_next_launch_goes_on_to_the_same_weights(
    prepared: Run, nodes: Nodes
) -> None:
    asked = two_nodes(nodes, "train.optimizer.save_every=2", "train.optimizer.steps=30")
    run = open_run(prepared.preset, asked)
    joined = nodes.join(prepared.store.root, 90)
    first = nodes.start(0, "-c", FIRST, prepared.preset, *asked)
    for line in first.stdout:
        if "step 5/" in line:
            break
    began = time.monotonic()
    (rank,) = children_of(joined.pid)  # ip replaces itself by what it starts
    os.kill(rank, signal.SIGKILL)
    said = first.communicate(timeout=120)[0]
    assert first.returncode != 0 and time.monotonic() - began < 60, said
    assert "resume" in said, said
    again = nodes.start(0, "-c", FIRST, prepared.preset, *asked)
    said = again.communicate(timeout=240)[0]
    assert again.returncode == 0, said
    joined.terminate()
    joined.wait(30)
    found = losses(run), weights(run)
    run.artefact(run.keys.embedder).path.rename(prepared.store.root / "aside")
    alone = open_run(prepared.preset, [*asked, "train.launch.nodes=1", "train.launch.processes=2"])
    build(alone, alone.keys.embedder)
    assert weights(alone) == found[1]


def test_a_node_that_cannot_reach_the_first_says_so_with_both_addresses(prepared: Run, nodes: Nodes) -> None:
    asked = two_nodes(nodes)
    joined = nodes.join(prepared.store.root, 100)
    ip("-n", nodes.names[0], "addr", "add", "10.99.0.1/24", "dev", "lo")
    asked = [f'train.launch.rendezvous="10.99.0.1:{PORT}"' if "rendezvous" in one else one for one in asked]
    began = time.monotonic()
    first = nodes.start(0, "-c", FIRST, prepared.preset, *asked)
    said = first.communicate(timeout=200)[0]
    assert first.returncode != 0 and "10.99.0.1:29517" in said, said
    assert time.monotonic() - began < 150
    joined.kill()
    joined.wait()


def test_nobody_who_joins_is_an_error_that_says_what_to_run(prepared: Run) -> None:
    launch = ("processes=1", "nodes=2", 'rendezvous="127.0.0.1:29518"', "join_seconds=1")
    run = open_run(prepared.preset, [*TRAIN, *(f"train.launch.{one}" for one in launch)])
    with pytest.raises(TrainingError, match="0 of 1 other nodes have come within 1 s. Run `icl-embed join "):
        build(run, run.keys.embedder)


def test_ray_starts_the_other_node(prepared: Run, cluster: Any) -> None:
    launch = ("processes=1", "nodes=2", 'nodes_by="ray"', 'device="cpu"', "join_seconds=60")
    run = open_run(prepared.preset, [*TRAIN, *(f"train.launch.{one}" for one in launch)])
    said: list[str] = []
    build(run, run.keys.embedder, said.append)
    assert any("all 2 nodes are here" in line for line in said)
    found = losses(run), weights(run)
    run.artefact(run.keys.embedder).path.rename(prepared.store.root / "aside")
    alone = open_run(prepared.preset, [*TRAIN, "train.launch.processes=2"])
    build(alone, alone.keys.embedder)
    assert (losses(alone), weights(alone)) == found
    larger = open_run(
        prepared.preset,
        [*TRAIN, "train.batch_size=16", *(f"train.launch.{one}" for one in (*launch, "nodes=4"))],
    )
    alone.artefact(alone.keys.embedder).path.rename(prepared.store.root / "aside-too")
    with pytest.raises(ConfigError, match="launch.nodes is 4, but besides this node the Ray cluster has 1"):
        build(larger, larger.keys.embedder)
