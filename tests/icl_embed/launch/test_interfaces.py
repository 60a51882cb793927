"""Through which network interface the ranks of several nodes talk."""

import pytest

from icl_embed.config import LaunchConfig
from icl_embed.errors import ConfigError, TrainingError
from icl_embed.launch.nodes import endpoint_of, node_environment

NAMES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
HERE = {"nodes": 2, "rendezvous": "127.0.0.1:29500"}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_it_is_the_one_that_leads_to_the_first_node() -> None:
    found = node_environment(LaunchConfig(**HERE))
    assert found == {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", **dict.fromkeys(NAMES, "lo")}


def test_what_the_environment_says_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    found = node_environment(LaunchConfig(**HERE))
    assert found["GLOO_SOCKET_IFNAME"] == "lo"
    assert "NCCL_SOCKET_IFNAME" not in found  # so that ib0 is left


def test_the_config_says_it_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    found = node_environment(LaunchConfig(**HERE, interface="eth7"))
    assert [found[name] for name in NAMES] == ["eth7", "eth7"]


@pytest.mark.parametrize("rendezvous", ["somewhere", "somewhere:", ":29500", "somewhere:port"])
def test_an_address_is_a_host_and_a_port(rendezvous: str) -> None:
    with pytest.raises(ConfigError, match="must be host:port"):
        endpoint_of(LaunchConfig(nodes=2, rendezvous=rendezvous))


def test_several_nodes_need_an_address() -> None:
    with pytest.raises(TrainingError, match="set launch.rendezvous"):
        endpoint_of(LaunchConfig(nodes=2))
