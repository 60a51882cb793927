"""The ``http`` source: one file, resumed, bounded in size and time, retried where it can help.

What can be mended by waiting is decided here for all sources (``may_pass``, ``patiently``).

Redirects are followed by hand, so that a pinned file cannot quietly come from another host or over plain
http. Nothing here checks the sha256; ``downloads.cached_file`` does, before anybody sees the file.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from icl_embed.errors import SourceError, SourceUnreachableError
from icl_embed.sources.archive import read_members
from icl_embed.sources.card_source import LOOPBACK_HOSTS, HttpSource
from icl_embed.sources.downloads import cached_file
from icl_embed.sources.fetched import Fetched, Progress

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 18
MAX_REDIRECTS = 5
MAX_WAIT_SECONDS = 30.0
RETRIED_STATUS = (408, 425, 429)  # and every 5xx but those that say "never"
NEVER_STATUS = (501, 505, 511)
T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long we try: attempts, the first pause between them (doubled each time), seconds of silence."""

    attempts: int = 5
    first_wait: float = 0.5
    connect_timeout: float = 10.0
    read_timeout: float = 60.0


class TransientError(Exception):
    """Worth another attempt; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def may_pass(status: int) -> bool:
    """Whether a server that answers so may answer otherwise in a while."""
    return status in RETRIED_STATUS or (500 <= status < 600 and status not in NEVER_STATUS)


def patiently(attempt: Callable[[], T], patience: Patience, *, name: str, what: str, advice: str = "") -> T:
    """What ``attempt`` returns, tried again as long as it raises ``TransientError``.

    Raises
        SourceUnreachableError: the last attempt failed as well; the message begins with ``what``.
    """
    wait = patience.first_wait
    number = 1
    while True:
        try:
            return attempt()
        except TransientError as error:
            if number >= patience.attempts:
                raise SourceUnreachableError(f"{what} after {number} attempts: {error}{advice}") from error
            pause = min(MAX_WAIT_SECONDS, max(wait, error.wait))
            logger.warning("%s: %s; attempt %d in %.1f s", name, error, number + 1, pause)
        time.sleep(pause)
        wait *= 2
        number += 1


@dataclass(frozen=True)
class Transfer:
    """A file to fetch: from where, and within which bounds."""

    url: str
    name: str
    max_bytes: int
    same_host: bool = True
    patience: Patience = Patience()

    def into(self, partial: Path, session: requests.Session, progress: Progress | None = None) -> None:
        """Fetch to ``partial``, continuing the bytes that are already there.

        Raises
            SourceError: refused, too large, redirected away, or still failing after the last attempt.
        """
        patiently(
            lambda: self._attempt(partial, session, progress),
            self.patience,
            name=self.name,
            what=f"cannot fetch {self.name} from {shown(self.url)}",
            advice=". What arrived is kept, and the next run continues it",
        )

    def alone(self, partial: Path, progress: Progress | None = None) -> None:
        """``into`` with a session of its own."""
        with requests.Session() as session:
            self.into(partial, session, progress)

    def _attempt(self, partial: Path, session: requests.Session, progress: Progress | None) -> None:
        offset = partial.stat().st_size if partial.exists() else 0
        try:
            with self._request(session, offset) as response:
                if response.status_code == requests.codes.requested_range_not_satisfiable:
                    partial.unlink(missing_ok=True)
                    raise TransientError("the server cannot continue our part of the file; starting again")
                offset = _accepted_offset(response, offset)
                self._receive(response, partial, offset, progress)
        except requests.exceptions.InvalidSchema as error:
            raise SourceError(f"cannot fetch {shown(self.url)}: {error}") from error
        except (requests.ConnectionError, requests.Timeout) as error:
            raise TransientError(reason_of(error)) from error
        except requests.RequestException as error:
            raise SourceError(f"cannot fetch {shown(self.url)}: {reason_of(error)}") from error

    def _request(self, session: requests.Session, offset: int) -> requests.Response:
        url = self.url
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        timeouts = (self.patience.connect_timeout, self.patience.read_timeout)
        for _ in range(MAX_REDIRECTS + 1):
            response = session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=timeouts)
            if not response.is_redirect:
                return self._judged(response)
            response.close()
            url = self._redirected(url, response.headers["Location"])
        raise SourceError(f"{shown(self.url)} redirects more than {MAX_REDIRECTS} times")

    def _redirected(self, url: str, location: str) -> str:
        target = urljoin(url, location)
        before, after = urlsplit(url), urlsplit(target)
        if self.same_host and (after.hostname, after.port) != (before.hostname, before.port):
            raise SourceError(
                f"{shown(url)} redirects to another host, {after.hostname}; if that is right, "
                "put the final address into the card"
            )
        loopback = after.scheme == "http" and after.hostname in LOOPBACK_HOSTS
        if after.scheme != "https" and not loopback:
            raise SourceError(f"{shown(url)} redirects to {after.scheme}://, which is not fetched")
        return target

    def _judged(self, response: requests.Response) -> requests.Response:
        status = response.status_code
        if may_pass(status):
            response.close()
            raise TransientError(f"the server answered {status}", retry_after(response))
        if status not in (200, 206, 416):
            response.close()
            raise SourceError(f"{shown(self.url)} answered {status} {response.reason}; is the address right?")
        return response

    def _receive(
        self, response: requests.Response, partial: Path, offset: int, progress: Progress | None
    ) -> None:
        length = response.headers.get("Content-Length", "")
        expected = offset + int(length) if length.isdigit() else None
        if expected is not None and expected > self.max_bytes:
            raise SourceError(f"{self.name} has {expected} bytes, more than the {self.max_bytes} allowed")
        done = offset
        with partial.open("r+b" if offset else "wb") as output:
            output.seek(offset)
            try:
                while chunk := response.raw.read1(
                    CHUNK_BYTES
                ):  # keeps every byte that arrives before a fault
                    output.write(chunk)
                    done += len(chunk)
                    if done > self.max_bytes:
                        raise SourceError(f"{self.name} is longer than the {self.max_bytes} bytes allowed")
                    if progress is not None:
                        progress(self.name, done, expected)
            except urllib3.exceptions.ReadTimeoutError as error:
                raise TransientError("the server fell silent") from error
            except urllib3.exceptions.HTTPError as error:
                raise _truncated(done, expected) from error
        if expected is not None and done != expected:
            raise _truncated(done, expected)


def _accepted_offset(response: requests.Response, offset: int) -> int:
    """Where the answer's bytes belong: a server may ignore Range and send everything."""
    if not offset or response.status_code == 200:
        return 0
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if found is None or int(found.group(1)) != offset:
        raise SourceError(f"asked to continue at byte {offset}, the server answered with another part")
    return offset


def _truncated(done: int, expected: int | None) -> TransientError:
    return TransientError(f"truncated: {done} bytes arrived, expected {expected or 'more'}")


def retry_after(response: requests.Response) -> float:
    """Seconds that the server asks to wait: a number, or a date as HTTP writes it; 0 if it does not say."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def reason_of(error: Exception) -> str:
    """The error in words, without addresses that may hold a password."""
    if isinstance(error, requests.exceptions.ReadTimeout):
        return "the server fell silent"
    return f"{type(error).__name__}: {re.sub(r'//[^/@ ]+@', '//', str(error))}"


def shown(url: str) -> str:
    """An address as it may be printed: no user, password, query or fragment."""
    parts = urlsplit(url)
    host = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
    return f"{parts.scheme}://{host}{parts.path}"


def fetch_http(
    source: HttpSource, downloads: Path, *, progress: Progress | None = None, patience: Patience | None = None
) -> list[Fetched]:
    """The file, or the named members of the archive that it is.

    Raises
        SourceError: it cannot be fetched, or is not what the card promised.
    """
    transfer = Transfer(source.url, source.name, source.max_bytes, patience=patience or Patience())
    path = cached_file(
        downloads, source.sha256, source.name, lambda partial: transfer.alone(partial, progress)
    )
    return read_members(path, source.members) if source.members else [Fetched(source.name, path=path)]
