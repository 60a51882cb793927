"""Where models run over many inputs: for mining, teacher scores, evaluation and reranking."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from icl_embed.config.base import Section

EngineName = Literal["local", "ray"]


class EngineConfig(Section):
    """The workers of every stage that runs a model and does not train it. No result depends on them."""

    name: EngineName = Field(
        "local", description="local: processes of this machine; ray: actors of a Ray cluster (extra ray)"
    )
    devices: tuple[str, ...] = Field(
        (),
        description="one worker each, such as cuda:0 or cpu; none: every GPU of the machine (ray: of the "
        "cluster), or the machine (ray: each node) as a whole where there is no GPU",
    )


ONE_HERE = EngineConfig()
"""The default: what this machine has."""
