"""How a flow is declared: what its parameters may be, and how it ends."""

from __future__ import annotations

import functools
import re
import traceback
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec, TypeVar

from prefect import Flow, flow
from prefect.states import Completed, Failed
from pydantic import Field

from icl_embed.config.load import known_presets
from icl_embed.errors import IclEmbedError
from tasks.policies import DOWNLOADS

P = ParamSpec("P")
R = TypeVar("R")

# The server refuses anything else when a run is asked for, before there is a run.
Preset = Annotated[str, Field(pattern=rf"^({'|'.join(map(re.escape, known_presets()))}|.+\.toml)$")]
Override = Annotated[str, Field(pattern=r"^\s*[A-Za-z_][A-Za-z0-9_.]*\s*=")]


def pipeline_flow(name: str) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """A flow of this project: its result, or its typed error, is the message of its last state."""

    def declare(function: Callable[P, R]) -> Flow[P, R]:
        @functools.wraps(function)
        def told(*arguments: P.args, **more: P.kwargs) -> Any:
            try:
                result = function(*arguments, **more)
            except IclEmbedError as error:
                # Without its traceback: Prefect keeps the error for the life of the process, and with the
                # frames all that they hold, down to open databases.
                return Failed(message=f"{type(error).__name__}: {error}", data=error.with_traceback(None))
            except BaseException as error:
                traceback.clear_frames(error.__traceback__)  # as above; lines and messages stay
                raise
            return Completed(message=_shown(result), data=result)

        return flow(name=name, task_runner=DOWNLOADS)(told)

    return declare


def _shown(result: Any) -> str:
    return "\n".join(map(str, result)) if isinstance(result, list) else str(result)
