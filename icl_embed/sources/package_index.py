"""Which package index to ask, and how to speak to it: what pip was told, and nothing else.

Order as in pip: environment, then the configuration files from the nearest to the farthest, then PyPI.
Local (``file:``) indexes are skipped: they have no JSON or HTML page to read.
"""

from __future__ import annotations

import configparser
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from pypi_simple import PYPI_SIMPLE_ENDPOINT

from icl_embed.sources.card_source import LOOPBACK_HOSTS

logger = logging.getLogger(__name__)

SECTIONS = ("download", "install", "global")  # pip reads the command's own section before [global]


@dataclass(frozen=True)
class PackageIndex:
    """Addresses to ask in order (they may hold a password: never print them), and a certificate bundle."""

    endpoints: tuple[str, ...]
    certificates: str = ""

    def session(self) -> requests.Session:
        """An HTTP session that trusts what pip trusts."""
        session = requests.Session()
        if self.certificates:
            session.verify = self.certificates
        return session


def configured_index() -> PackageIndex:
    """The index that pip would use on this machine."""
    main = _setting("index-url") or PYPI_SIMPLE_ENDPOINT
    addresses = [main, *_setting("extra-index-url").split()]
    endpoints = tuple(dict.fromkeys(address for address in addresses if _usable(address)))
    certificates = _setting("cert")
    return PackageIndex(endpoints, certificates if certificates and Path(certificates).exists() else "")


def _usable(address: str) -> bool:
    parts = urlsplit(address)
    usable = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS)
    if not usable:
        logger.debug("a package index with scheme %r is not used", parts.scheme)
    return usable


def _setting(name: str) -> str:
    from_environment = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if from_environment:
        return from_environment
    for path in _configuration_files():
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError) as error:
            logger.warning("pip's configuration %s cannot be read: %s", path, error)
            continue
        for section in SECTIONS:
            value = parser.get(section, name, fallback="")
            if value:
                return value
    return ""


def _configuration_files() -> list[Path]:
    """The files that pip reads, the strongest first."""
    chosen = os.environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return []
    files = [Path(chosen)] if chosen else []
    home = Path.home()
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    system = [Path(folder) / "pip/pip.conf" for folder in _system_folders()]
    files += [Path(sys.prefix) / "pip.conf", config_home / "pip/pip.conf", home / ".pip/pip.conf"]
    return [*files, Path("/etc/pip.conf"), *system]


def _system_folders() -> list[str]:
    return (os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
