"""How flows end, and what is refused before there is a run."""

from __future__ import annotations

import gc
import re
import weakref
from typing import Any

import pytest

from flows.declaring import pipeline_flow
from flows.starting import FLOWS, LOCAL_API_URL, command_at, load_flow, refuse_unknown, serving_command
from icl_embed.errors import ConfigError, PoolError


def ended(error: Exception | None = None, result: Any = None) -> Any:
    @pipeline_flow("some-flow")
    def some_flow() -> Any:
        if error:
            raise error
        return result

    return some_flow.fn()


def test_a_typed_error_is_the_message_of_a_failed_run() -> None:
    state = ended(PoolError("no rows"))
    assert (state.is_failed(), state.message) == (True, "PoolError: no rows")


def test_a_typed_error_keeps_nothing_of_the_run_alive() -> None:
    class Heavy:
        pass

    seen: list[Any] = []

    @pipeline_flow("some-flow")
    def some_flow() -> None:
        heavy = Heavy()
        seen.append(weakref.ref(heavy))
        raise PoolError("no rows")

    state = some_flow.fn()
    gc.collect()
    assert state.is_failed()
    assert seen[0]() is None


def test_a_bug_is_not_made_pretty() -> None:
    with pytest.raises(ZeroDivisionError):
        ended(ZeroDivisionError())


def test_the_result_is_the_message_of_a_completed_run() -> None:
    assert ended(result="page.html").message == "page.html"
    assert ended(result=["evaluation/1", "evaluation/2"]).message == "evaluation/1\nevaluation/2"


@pytest.mark.parametrize("name", FLOWS)
def test_the_server_can_refuse_what_no_flow_takes(name: str) -> None:
    properties = load_flow(name).parameters.model_dump()["properties"]
    preset = properties["preset"]["pattern"]
    assert [bool(re.search(preset, text)) for text in ("demo", "my/own.toml", "dmeo", "")] == [
        True,
        True,
        False,
        False,
    ]
    override = next(one for one in properties["overrides"]["anyOf"] if "items" in one)["items"]["pattern"]
    assert [bool(re.search(override, text)) for text in ("seed=3", "a.b_c = [1]", "seed", "=3")] == [
        True,
        True,
        False,
        False,
    ]


def test_a_flow_may_be_named_as_prefect_names_deployments() -> None:
    assert load_flow("build-pool/build-pool") is load_flow("build-pool")
    with pytest.raises(ConfigError, match="a deployment of its own"):
        load_flow("build-pool/nightly")
    with pytest.raises(ConfigError, match="did you mean build-pool"):
        refuse_unknown("bulid-pool")


def test_hints_name_the_server_that_was_asked() -> None:
    other = "http://127.0.0.1:4311/api"
    assert command_at(LOCAL_API_URL, "icl-embed run build-pool") == "icl-embed run build-pool"
    assert (
        command_at(other, "icl-embed run build-pool") == f"PREFECT_API_URL={other} icl-embed run build-pool"
    )
    # Prefect's own command knows no usual server
    assert command_at(LOCAL_API_URL, "prefect deploy").startswith("PREFECT_API_URL=")
    assert (serving_command(other), serving_command(LOCAL_API_URL)) == (
        "icl-embed ui --port 4311",
        "icl-embed ui",
    )
