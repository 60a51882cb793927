"""AIR-Bench's tables from the hub, through ``datasets``; what was fetched before needs no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from icl_embed.benchmark.air_bench.layout import OWNER, Part
from icl_embed.errors import EvaluationError, MissingTaskError


def read_part(part: Part) -> Iterable[Mapping[str, Any]]:
    """The rows of a part.

    Raises
        MissingTaskError: the hub cannot be reached and the part is not cached, or it has no such part.
        EvaluationError: a folder in the working directory would be read instead.
    """
    from datasets import load_dataset

    repository = f"{OWNER}/{part.repository}"
    if Path(repository).exists():
        raise EvaluationError(
            f"the folder {repository} in the working directory would be read in place of the hub's "
            f"repository of that name; give it as the local folder, or run from another directory"
        )
    try:
        rows: Iterable[Mapping[str, Any]] = load_dataset(repository, part.config, split=part.split)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MissingTaskError(
            part.task,
            f"cannot get {part.split} of {repository}, {part.config}, from the hub: {reason}. Without a "
            "network, download the repository elsewhere and give the folder that holds it as the mirror",
        ) from error
    return rows
