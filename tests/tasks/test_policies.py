"""The rules of caching and retrying, on real Prefect objects."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect import task
from prefect.states import Failed

from icl_embed.errors import ConfigError, SourceError, SourceUnreachableError, StoreError, TrainingError
from icl_embed.launch.launcher import WorkerLostError
from icl_embed.pipeline import build
from icl_embed.pipeline.run import open_run
from tasks import policies, stages
from tests.tiny_project import build_project


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SourceUnreachableError("no answer"), True),
        (WorkerLostError("killed"), True),
        (ConnectionError("reset"), True),
        (TimeoutError("late"), True),
        (SourceError("wrong sha256"), False),
        (ConfigError("unknown key"), False),
        (TrainingError("the loss is nan"), False),
        (StoreError("no space"), False),
        (ValueError("a bug"), False),
    ],
)
def test_only_what_a_retry_can_mend_is_retried(error: Exception, expected: bool) -> None:
    state = Failed(data=error, message=str(error))
    assert policies.can_be_retried(task(lambda: None), None, state) is expected


def test_the_cache_key_is_the_fingerprint_and_a_missing_artefact_is_not_believed(tmp_path: Path) -> None:
    run = open_run(str(build_project(tmp_path)))
    key = run.keys.pool
    assert policies.stage_cache_key(None, {"run": run, "key": key}) == f"pool-{key.fingerprint}"

    assert stages.prepared(run, key).refresh_cache is True

    def produce(folder: Path) -> dict[str, int]:
        (folder / "rows").write_text("x")
        return {}

    artefact = run.store.build(key, produce)
    assert stages.prepared(run, key).refresh_cache is False
    (artefact.path / "rows").write_text("y")
    assert stages.prepared(run, key).refresh_cache is True


def test_every_stage_that_can_be_built_has_a_task_and_none_stores_pickle() -> None:
    assert set(stages.STAGES) == {*build._BUILDERS, *build._TRAINERS}
    for stage in stages.STAGES:
        one = stages.task_of(stage)
        assert one.persist_result is True
        assert one.result_serializer == "json"
        assert one.cache_key_fn is policies.stage_cache_key
        assert one.description
