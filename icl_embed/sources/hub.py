"""The ``hub`` source: files of a Hugging Face repository at one commit. The only door to the hub.

Works without a network if the commit is already in the cache (ours, or the one HF_HOME names).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from icl_embed.errors import SourceError, SourceUnreachableError
from icl_embed.sources.archive import matches
from icl_embed.sources.card_source import HubSource
from icl_embed.sources.fetched import Fetched
from icl_embed.sources.http import may_pass
from icl_embed.sources.local import fetch_local

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
    try:
        return snapshot(cache, offline=False), cache
    except (_client_error(), OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        kind_of_error = SourceUnreachableError if _may_pass(error) else SourceError
        raise kind_of_error(
            f"cannot get {repository} at {revision} from the hub: {reason}. Without a network, "
            "download the files elsewhere and use a local source"
        ) from error


def _client_error() -> type[Exception]:
    """The base of all errors of the hub's HTTP client, whichever client this version uses."""
    from huggingface_hub.errors import HfHubHTTPError

    base: type[Exception] = HfHubHTTPError.__bases__[0]
    return base


def _may_pass(error: BaseException) -> bool:
    """Whether waiting can help. The hub wraps what happened: the cause says it, not the wrapper."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalEntryNotFoundError):
        return error.__cause__ is not None and _may_pass(error.__cause__)
    if isinstance(error, HfHubHTTPError):
        return may_pass(error.response.status_code)
    if isinstance(error, OfflineModeIsEnabled):  # somebody said so; it stays so
        return False
    return isinstance(error, (_client_error(), ConnectionError, TimeoutError))
