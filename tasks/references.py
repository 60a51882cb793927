"""What Prefect tasks exchange: short references to artefacts, never the things themselves."""

from __future__ import annotations

from icl_embed.store import Artefact


def reference(artefact: Artefact) -> str:
    """``stage/fingerprint`` of an artefact."""
    return f"{artefact.stage}/{artefact.fingerprint}"
