"""The other nodes of a training, started by Ray: a task on each does what ``icl-embed join`` does by hand."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from icl_embed.config import LaunchConfig
from icl_embed.engines.ray_cluster import connected
from icl_embed.errors import ConfigError, TrainingError
from icl_embed.launch.nodes import claim, invitation_in, wait_for_all

logger = logging.getLogger(__name__)


@contextmanager
def started_by_ray(work_dir: Path, config: LaunchConfig) -> Iterator[LaunchConfig]:
    """Have a task wait for this job's invitation on every other node; yields the config with a rendezvous.

    Raises
        ConfigError: Ray is not installed, or the cluster is too small.
    """
    ray = connected()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    gpus = 0 if config.device == "cpu" or not ray.cluster_resources().get("GPU") else config.processes
    others = [
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here and node["Resources"].get("GPU", 0) >= gpus
    ]
    if len(others) < config.nodes - 1:
        raise ConfigError(
            f"launch.nodes is {config.nodes}, but besides this node the Ray cluster has {len(others)}"
            f"{f' with {gpus} GPUs' if gpus else ''}"
        )
    tasks = []
    for node in others[: config.nodes - 1]:
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        needs = {"num_cpus": 0, "num_gpus": gpus, "max_retries": 0, "scheduling_strategy": there}
        tasks.append(
            ray.remote(join_once).options(**needs).remote(str(work_dir.absolute()), config.join_seconds)
        )
    rendezvous = config.rendezvous or f"{ray.util.get_node_ip_address()}:{free_port()}"
    try:
        yield config.model_copy(update={"rendezvous": rendezvous})
        ray.get(tasks)
    finally:
        for one in tasks:
            ray.cancel(one, force=True)


def join_once(work_dir: str, seconds: float) -> None:
    """On another node: take part in the job of a work folder.

    Raises
        TrainingError: nobody invites there; the folder is probably not shared.
        IclEmbedError: as ``run_node``.
    """
    from icl_embed.launch.launcher import run_node

    folder = Path(work_dir)
    invitation = invitation_in(folder, seconds)
    if invitation is None:
        raise TrainingError(
            f"{socket.gethostname()} finds no invitation in {work_dir} within {seconds:g} s; the store must "
            "lie on a file system that all nodes share under one path"
        )
    node = claim(folder, invitation)
    if node is None:
        raise TrainingError(f"all places of the job in {work_dir} are taken")
    wait_for_all(folder, invitation)
    run_node(invitation.module, Path(invitation.path), folder, invitation.config, logger.info, node)


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
