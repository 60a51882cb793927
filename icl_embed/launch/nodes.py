"""Several machines in one job: the first invites, the others join, all through the work folder they share.

That each finds what the other wrote proves, before the first step, that the folder is shared. Ranks then meet
at ``launch.rendezvous``, an address of the first node; nothing else listens.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from icl_embed.config import LaunchConfig
from icl_embed.errors import ConfigError, TrainingError
from icl_embed.store.files import write_atomically
from icl_embed.store.software import refuse_other_software, software

INVITATION_NAME = "invitation.json"
NODES_DIR = "nodes"
POLL_SECONDS = 0.5
Found = TypeVar("Found")
SIOCGIFADDR = 0x8915  # Linux: an interface's IPv4 address


@dataclass(frozen=True)
class Invitation:
    """What another node must know to take part.

    Attributes
        id: of this launch; a second launch of the same job invites anew.
        path: of the job's file.
        launch: the job's ``LaunchConfig``.
        host: who invites.
    """

    id: str
    module: str
    path: str
    launch: dict[str, Any]
    software: dict[str, str]
    host: str

    @property
    def config(self) -> LaunchConfig:
        """How the job is launched."""
        return LaunchConfig.model_validate(self.launch)

    @classmethod
    def read(cls, work_dir: Path) -> Invitation | None:
        """The invitation in a work folder; None if there is none."""
        try:
            return cls(**json.loads((work_dir / INVITATION_NAME).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


@contextmanager
def inviting(
    module: str, job_path: Path, work_dir: Path, config: LaunchConfig, on_line: Callable[[str], None]
) -> Iterator[None]:
    """Invite the other nodes and wait until all have come; the invitation stands for the block.

    Raises
        ConfigError: a node runs other software.
        TrainingError: no rendezvous is set, or a node has not come within ``launch.join_seconds``.
    """
    endpoint_of(config)
    invitation = Invitation(
        secrets.token_hex(4), module, str(job_path.absolute()), config.model_dump(mode="json"), software(),
        socket.gethostname(),
    )  # fmt: skip
    nodes = work_dir / NODES_DIR / invitation.id
    nodes.mkdir(parents=True)
    write_atomically(work_dir / INVITATION_NAME, json.dumps(asdict(invitation)).encode())
    how = f"icl-embed join {work_dir.absolute().parents[1]}"
    on_line(f"waiting for {config.nodes - 1} more nodes; run on each: {how}")
    try:
        deadline = time.monotonic() + config.join_seconds
        while len(come := _arrivals(nodes)) < config.nodes - 1:
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"{len(come)} of {config.nodes - 1} other nodes have come within {config.join_seconds} s"
                    f"{': ' + ', '.join(come) if come else ''}. Run `{how}` on each; it must be this folder, "
                    "on a file system that all nodes share. launch.join_seconds says how long to wait"
                )
            time.sleep(POLL_SECONDS)
        on_line(f"all {config.nodes} nodes are here: {', '.join([invitation.host, *come])}")
        yield
    finally:
        (work_dir / INVITATION_NAME).unlink(missing_ok=True)


def _arrivals(nodes: Path) -> list[str]:
    """Hosts that have come, in the order of their numbers; raises ConfigError if one refused."""
    hosts = []
    for path in sorted(nodes.iterdir()):
        with suppress(ValueError):  # it is just being written
            found = json.loads(path.read_bytes())
            refuse_other_software(found["software"], f"the node {found['host']}")
            hosts.append(found["host"])
    return hosts


def claim(work_dir: Path, invitation: Invitation) -> int | None:
    """Take the next free place, 1 … nodes − 1; None if all are taken.

    Raises
        ConfigError: this node runs other software than the one that invites.
    """
    card = json.dumps({"host": socket.gethostname(), "software": software()}).encode()
    for number in range(1, invitation.config.nodes):
        path = work_dir / NODES_DIR / invitation.id / f"{number:05d}"
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            continue
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(card)
        refuse_other_software(invitation.software, f"the node {invitation.host}, which invites,")
        return number
    return None


def wait_for_all(work_dir: Path, invitation: Invitation) -> None:
    """Wait until every place is taken, as ranks wait for each other only briefly.

    Raises
        TrainingError: the node that invites has given up.
    """
    while len(_arrivals(work_dir / NODES_DIR / invitation.id)) < invitation.config.nodes - 1:
        if Invitation.read(work_dir) != invitation:
            raise TrainingError(f"{invitation.host} has given up waiting for the other nodes")
        time.sleep(POLL_SECONDS)


def invitation_in(work_dir: Path, seconds: float) -> Invitation | None:
    """The invitation of one job, waited for; None if none comes."""
    return _waited_for(lambda: Invitation.read(work_dir), seconds)


def find_invitation(store: Path, seconds: float, seen: set[str]) -> tuple[Path, Invitation] | None:
    """An invitation of any job of a store that was not seen yet, waited for; None if none comes."""

    def look() -> tuple[Path, Invitation] | None:
        for path in sorted(store.glob(f"*/*.work/{INVITATION_NAME}")):
            invitation = Invitation.read(path.parent)
            if invitation is not None and invitation.id not in seen:
                return path.parent, invitation
        return None

    return _waited_for(look, seconds)


def _waited_for(look: Callable[[], Found | None], seconds: float) -> Found | None:
    """What a look finds, as soon as it finds something; None if it never does."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return found


def endpoint_of(config: LaunchConfig) -> tuple[str, int]:
    """Host and port where the ranks meet.

    Raises
        TrainingError: none is set.
        ConfigError: it is not host:port.
    """
    if not config.rendezvous:
        raise TrainingError("launch.nodes is above 1: set launch.rendezvous to host:port of the first node")
    host, _, port = config.rendezvous.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"launch.rendezvous must be host:port, found {config.rendezvous!r}")
    return host, int(port)


def node_environment(config: LaunchConfig) -> dict[str, str]:
    """Where the ranks of this node meet the others, and through which network interface they talk."""
    host, port = endpoint_of(config)
    interface = config.interface or interface_to(host, port)
    names = [f"{library}_SOCKET_IFNAME" for library in ("GLOO", "NCCL")]
    if not config.interface:  # what the user's environment says stands
        names = [name for name in names if interface and name not in os.environ]
    return {"MASTER_ADDR": host, "MASTER_PORT": str(port), **dict.fromkeys(names, interface)}


def address_to(host: str, port: int) -> str:
    """This machine's own address on the way to another; what is wrong if there is no way."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))  # nothing is sent
            return str(probe.getsockname()[0])
    except OSError as error:
        return f"no address: {error}"


def interface_to(host: str, port: int) -> str:
    """The interface by which this machine reaches another, or itself; empty if it cannot be told."""
    mine = address_to(host, port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            with suppress(OSError):  # an interface without an address
                if socket.inet_ntoa(fcntl.ioctl(probe, SIOCGIFADDR, request)[20:24]) == mine:
                    return name
    return ""
