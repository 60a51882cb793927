"""From training pairs to a report on the reranker, with the run's own first reranker as the teacher."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from icl_embed.pipeline.run import open_run
from tests.flows.running import run_flow, stages_to_run, task_states
from tests.tiny_project import build_project

STAGES = ("reranker", "teacher-scores", "reranker", "reranker-choice", "reranker-evaluation", "report")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_teacher_training_tuning_evaluation_and_report_in_one_command(tmp_path: Path) -> None:
    project, teacher = build_project(tmp_path), "teacher.source=own"
    process = run_flow("distill-reranker", project, teacher, timeout=900)
    output = process.stdout + process.stderr
    assert process.returncode == 0, output[-4000:]
    run = open_run(str(project), [teacher])
    assert str(run.artefact(run.keys.report).path / "index.html") in process.stdout
    finished = re.findall(r"Task run '[^']*' - (\S+) .*: done in ", output)
    assert [stage for stage in finished if stage in STAGES] == list(STAGES)
    assert stages_to_run(run) == []
    assert re.search(r"shard 1/1: \d+ pairs", output)
    again = run_flow("distill-reranker", project, teacher, timeout=300)
    assert set(task_states(again.stdout + again.stderr)) == {"Cached"}
