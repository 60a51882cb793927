"""Two Ray nodes on one machine: real daemons, one CPU each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="needs the extra ray")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster that ``RAY_ADDRESS`` names, so that processes started meanwhile find it, too."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found.add_node(num_cpus=1)
    found.wait_for_nodes()
    monkeypatch.setenv("RAY_ADDRESS", found.address)
    try:
        yield found
    finally:
        ray.shutdown()
        found.shutdown()
