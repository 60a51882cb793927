"""The ``hub`` source: files of a Hugging Face repository at one commit. The only door to the hub.

Works without a network if the commit is already in the cache (ours, or the one HF_HOME names).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from icl_embed.errors import SourceError, SourceUnreachableError
from icl_embed.sources.archive import matches
from icl_embed.sources.card_source import HubSource
from icl_embed.sources.fetched import Fetched
from icl_embed.sources.local import fetch_local

RANGE_BYTES = 1 << 18  # fetched at once of a file that is only looked into: a footer, the head of a row group

# Weights as safetensors, tokenizer and settings: never pickles, never code.
MODEL_FILES = ("*.json", "*.safetensors", "tokenizer.model", "merges.txt", "vocab.txt")


def fetch_hub(source: HubSource, downloads: Path) -> list[Fetched]:
    """The matching files of a data set repository.

    Raises
        SourceUnreachableError: the hub does not answer, or with a trouble of its own; waiting can help.
        SourceError: the commit is not cached and the hub may not be asked, the repository or commit does not
            exist, the disk refuses, or no file matches.
    """
    snapshot, cache = _snapshot(
        source.repository, source.revision, source.files, downloads / "hub", kind="dataset"
    )
    return fetch_local(snapshot, source.files, root=cache)


def fetch_hub_model(repository: str, revision: str, downloads: Path) -> Path:
    """The folder of a model at a commit.

    Raises
        SourceError: as ``fetch_hub``.
    """
    return _snapshot(repository, revision, MODEL_FILES, downloads / "hub", kind="model")[0]


def fetch_hub_folder(repository: str, revision: str, files: Sequence[str], downloads: Path) -> Path:
    """The folder of a data set at a commit or branch, with the matching files.

    Raises
        SourceError: as ``fetch_hub``.
    """
    return _snapshot(repository, revision, files, downloads / "hub", kind="dataset")[0]


def _snapshot(
    repository: str, revision: str, files: Sequence[str], cache: Path, *, kind: str
) -> tuple[Path, Path]:
    """The folder of the commit (links into the cache), and the cache that it is in."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = [pattern.replace("**/", "*").replace("**", "*") for pattern in files]

    def snapshot(folder: Path, *, offline: bool) -> Path:
        return Path(
            snapshot_download(
                repository,
                repo_type=kind,
                revision=revision,
                allow_patterns=patterns,
                cache_dir=folder,
                local_files_only=offline,
            )
        )

    for folder in (cache, Path(constants.HF_HUB_CACHE)):  # a commit never changes: no need to ask again
        try:
            path = snapshot(folder, offline=True)
        except LocalEntryNotFoundError:
            continue
        if any(matches(file.relative_to(path).as_posix(), p) for file in path.rglob("*") for p in files):
            return path, folder
    with _told(repository, revision, kind):
        return snapshot(cache, offline=False), cache


@dataclass(frozen=True)
class HubFile:
    """A file of a repository as the hub lists it; ``sha256`` is empty for small files kept in git itself."""

    name: str
    num_bytes: int
    sha256: str


class HubDataset:
    """A data set repository at one commit, looked at from afar: lists, ranges of bytes, file by file."""

    def __init__(self, repository: str, revision: str, downloads: Path) -> None:
        self.repository, self.revision = repository, revision
        self._cache = downloads / "hub"
        self._system: Any = None

    def files(self) -> list[HubFile]:
        """Every file there is.

        Raises
            SourceError: as ``fetch_hub``.
        """
        with _told(self.repository, self.revision, "dataset"):
            found = self._files().find(self._root, detail=True)
        prefix = f"{self._root}/"
        return [
            HubFile(path.removeprefix(prefix), entry["size"], entry["lfs"].sha256 if entry["lfs"] else "")
            for path, entry in sorted(found.items())
        ]

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """A file from afar: what is read of it is fetched, and no more.

        Raises
            SourceError: as ``fetch_hub``, also while it is read.
        """
        with (
            _told(self.repository, self.revision, "dataset", name),
            self._files().open(f"{self._root}/{name}", block_size=RANGE_BYTES) as handle,
        ):
            yield cast("IO[bytes]", handle)

    def cached(self, name: str) -> Path | None:
        """Where a file lies that was fetched before; None if it was not."""
        from huggingface_hub import constants, try_to_load_from_cache

        for folder in (self._cache, Path(constants.HF_HUB_CACHE)):
            path = try_to_load_from_cache(
                self.repository, name, cache_dir=folder, revision=self.revision, repo_type="dataset"
            )
            if isinstance(path, str):
                return Path(path)
        return None

    def fetch(self, name: str) -> Path:
        """The path of a file, fetched if it is not there; what arrived of an earlier attempt is continued.

        Raises
            SourceError: as ``fetch_hub``.
        """
        from huggingface_hub import hf_hub_download

        with _told(self.repository, self.revision, "dataset", name):
            return self.cached(name) or Path(
                hf_hub_download(
                    self.repository, name, repo_type="dataset", revision=self.revision, cache_dir=self._cache
                )
            )

    @property
    def _root(self) -> str:
        return f"datasets/{self.repository}@{self.revision}"

    def _files(self) -> Any:
        from huggingface_hub import HfFileSystem

        self._system = self._system or HfFileSystem(skip_instance_cache=True)
        return self._system


@contextmanager
def _told(repository: str, revision: str, kind: str, name: str = "") -> Iterator[None]:
    """The hub's errors as ours.

    Raises
        SourceError: whatever the hub says; a SourceUnreachableError where waiting can help.
    """
    try:
        yield
    except (_client_error(), OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        kind_of_error = SourceUnreachableError if _may_pass(error) else SourceError
        what = f"{name} of {repository}" if name else repository
        advice = _token_advice(error, f"{kind}s/{repository}" if kind == "dataset" else repository)
        raise kind_of_error(
            f"cannot get {what} at {revision} from the hub: {reason.rstrip('.')}. "
            + (advice or "Without a network, download the files elsewhere and use a local source")
        ) from error


def _token_advice(error: BaseException | None, page: str) -> str:
    """What to do if the hub wants to know who asks; empty if that is not the trouble."""
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    while error is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    if error is None or not (
        isinstance(error, RepositoryNotFoundError) or error.response.status_code in (401, 403)
    ):
        return ""
    return (
        "If it is gated or private, the hub wants a token: accept the terms at "
        f"https://huggingface.co/{page}, make a token that may read at "
        "https://huggingface.co/settings/tokens, and set HF_TOKEN to it"
    )


def _client_error() -> type[Exception]:
    """The base of all errors of the hub's HTTP client, whichever client this version uses."""
    from huggingface_hub.errors import HfHubHTTPError

    base: type[Exception] = HfHubHTTPError.__bases__[0]
    return base


def _may_pass(error: BaseException) -> bool:
    """Whether waiting can help. The hub wraps what happened: the cause says it, not the wrapper."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    from icl_embed.sources.http import may_pass  # with what only extras bring

    if isinstance(error, LocalEntryNotFoundError):
        return error.__cause__ is not None and _may_pass(error.__cause__)
    if isinstance(error, HfHubHTTPError):
        return may_pass(error.response.status_code)
    if isinstance(error, OfflineModeIsEnabled):  # somebody said so; it stays so
        return False
    return isinstance(error, (_client_error(), ConnectionError, TimeoutError))
