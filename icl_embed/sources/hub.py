"""The ``hub`` source: files of a Hugging Face data set repository at one commit. The only door to the hub.

Works without a network if the commit is already in the cache (ours, or the one HF_HOME names).
"""

from __future__ import annotations

from pathlib import Path

from icl_embed.errors import SourceError
from icl_embed.sources.archive import matches
from icl_embed.sources.card_source import HubSource
from icl_embed.sources.fetched import Fetched
from icl_embed.sources.local import fetch_local


def fetch_hub(source: HubSource, downloads: Path) -> list[Fetched]:
    """The matching files of the repository.

    Raises
        SourceError: the hub cannot be reached and the commit is not cached, the repository or commit does
            not exist, or no file matches.
    """
    snapshot, cache = _snapshot(source, downloads / "hub")
    return fetch_local(snapshot, source.files, root=cache)


def _snapshot(source: HubSource, cache: Path) -> tuple[Path, Path]:
    """The folder of the commit (links into the cache), and the cache that it is in."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [pattern.replace("**/", "*").replace("**", "*") for pattern in source.files]

    def snapshot(folder: Path, *, offline: bool) -> Path:
        return Path(
            snapshot_download(
                source.repository,
                repo_type="dataset",
                revision=source.revision,
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
        if any(
            matches(file.relative_to(path).as_posix(), p) for file in path.rglob("*") for p in source.files
        ):
            return path, folder
    try:
        return snapshot(cache, offline=False), cache
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(
            f"cannot get {source.repository} at {source.revision} from the hub: {reason}. Without a network, "
            "download the files elsewhere and use a local source"
        ) from error
