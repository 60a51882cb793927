"""What must be the same on every machine of a job: our code, Python, and the packages below."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from icl_embed.errors import ConfigError
from icl_embed.store.files import files_below, sha256_of
from icl_embed.store.manifest import library_versions

CODE = "icl-embed's code"
COMPARED = ("torch", "transformers", "peft", "deepspeed", "numpy")


@cache
def software() -> dict[str, str]:
    """A hash of our code, and versions; what is not installed is ``absent``."""
    package = Path(__file__).resolve().parents[1]
    code = [sha256_of(path) for path in files_below(package) if path.suffix in (".py", ".sql")]
    versions = library_versions()
    return {
        CODE: hashlib.sha256("".join(code).encode()).hexdigest()[:12],
        "Python": platform.python_version(),
        **{name: versions[name] for name in COMPARED},
    }


def refuse_other_software(theirs: Mapping[str, str], who: str) -> None:
    """See that another machine would compute what this one does.

    Raises
        ConfigError: something differs; all of it is named.
    """
    ours = software()
    other = [
        f"{name}: {ours[name]} here, {theirs.get(name)} there"
        for name in ours
        if ours[name] != theirs.get(name)
    ]
    if other:
        raise ConfigError(
            f"{who} runs other software: {'; '.join(other)}. Install the same on every node, or their "
            "results would differ"
        )
