"""Models on the nodes of a Ray cluster: the same vectors and negatives, and nothing lost with a node."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icl_embed.engines.engine import Work, start_engine
from icl_embed.errors import ModelError
from icl_embed.examples import Example
from icl_embed.model.embedder import Embedder
from icl_embed.model.encoder_pool import EncoderPool
from icl_embed.pipeline.apart import build_apart, end_child
from icl_embed.pipeline.build import build
from icl_embed.pipeline.run import open_run
from tests.tiny_project import build_project

pytestmark = pytest.mark.cluster
TEXTS = [f"sun {number} moon " * (1 + number % 7) for number in range(600)]
EXAMPLES = [Example("sun", "moon")]
CLOSE = 1e-5
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def importable_on_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_two_nodes_make_the_vectors_of_one_process(tiny_model: Path, cluster: Any) -> None:
    alone = Embedder.load(tiny_model, device="cpu", dtype="float32")
    with EncoderPool(tiny_model, [], dtype="float32", engine="ray") as pool:
        passages = pool.encode_passages(TEXTS, batch_tokens=256)
        queries = pool.encode_queries(TEXTS, instruction="find", examples=EXAMPLES, batch_tokens=256)
        assert len({actor for actor in pool._engine._plan_of}) == 2
    assert np.abs(passages - alone.encode_passages(TEXTS)).max() < CLOSE
    expected = alone.encode_queries(TEXTS, instruction="find", examples=EXAMPLES)
    assert np.abs(queries - expected).max() < CLOSE


def test_mining_on_the_cluster_finds_the_same_negatives(tmp_path: Path, cluster: Any) -> None:
    preset = str(build_project(tmp_path))
    dense = ['negatives.methods=["dense"]', "negatives.max_positive_ratio=100"]
    here = open_run(preset, dense)
    for key in (*here.keys.datasets.values(), here.keys.pool, here.keys.base_model, here.keys.negatives):
        mine = build(here, key)
    expected = (mine.path / "train.parquet").read_bytes()
    there = open_run(preset, [*dense, 'engine.name="ray"'])
    assert there.keys.negatives == here.keys.negatives, "where a model runs is in no key"
    shutil_away(mine.path)
    try:
        again = build_apart(there, there.keys.negatives)
    finally:
        end_child()
    assert (again.path / "train.parquet").read_bytes() == expected


def shutil_away(folder: Path) -> None:
    """Move an artefact aside, so that it is built again."""
    folder.rename(folder.with_name("aside"))


@dataclass(frozen=True)
class Slow(Work):
    """Squares, each after a while; the node of every result is told."""

    seconds: float
    name = "worker"

    def open(self, device: str, threads: int) -> Callable[[int], tuple[int, str]]:
        import time

        import ray

        node = ray.get_runtime_context().get_node_id()

        def square(number: int) -> tuple[int, str]:
            time.sleep(self.seconds)
            return number * number, node

        return square


def test_a_node_that_is_killed_midway_costs_nothing_but_its_jobs(cluster: Any) -> None:
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    results: dict[int, tuple[int, str]] = {}
    with start_engine("ray", Slow(0.05), []) as engine:
        for number, result in engine.run(range(200)):
            assert number not in results, "no result comes twice"
            results[number] = result
            if len(results) == 40:
                cluster.remove_node(node, allow_graceful=False)
    assert {number: square for number, (square, _) in results.items()} == {n: n * n for n in range(200)}
    late = {where for _, where in list(results.values())[150:]}
    assert 1 <= len(late) <= 2, "the others took over"
    assert len({where for _, where in list(results.values())[:40]}) == 3


@dataclass(frozen=True)
class Deadly(Work):
    """One job that takes its process down."""

    name = "worker"

    def open(self, device: str, threads: int) -> Callable[[int], int]:
        def work(number: int) -> int:
            if number == 7:
                os._exit(9)
            return number

        return work


def test_a_job_that_loses_every_worker_is_an_error_that_says_so(cluster: Any) -> None:
    engine = start_engine("ray", Deadly(), [])
    with pytest.raises(ModelError, match="3 worker workers were lost at the same job"):
        list(engine.run(range(20)))
    with pytest.raises(ModelError, match="are closed"):
        list(engine.run(range(2)))


def test_what_cannot_be_opened_is_told(tiny_model: Path, tmp_path: Path, cluster: Any) -> None:
    import shutil

    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"no encoder of the Ray cluster can begin"):
        EncoderPool(folder, [], dtype="float32", engine="ray")


def test_without_a_cluster_ray_starts_one_here(tiny_model: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom icl_embed import EncoderPool\n"
        "with EncoderPool(sys.argv[1], ['cpu'], dtype='float32', engine='ray') as pool:\n"
        "    print(pool.encode_passages(['sun', 'moon']).shape)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    found = subprocess.run(
        [sys.executable, str(script), str(tiny_model)],
        capture_output=True, text=True, check=False, timeout=120, env={**environment, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert found.stdout.strip() == "(2, 32)", found.stderr
