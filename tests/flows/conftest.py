"""One finished run of the whole pipeline, for every test that needs its artefacts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.flows.running import run_flow
from tests.tiny_project import build_project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preset of a tiny project."""
    return build_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def finished(project: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The project once the full pipeline ran in it, and that run."""
    return project, run_flow("full-pipeline", project)


@pytest.fixture
def store_copy(finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> Path:
    """The finished run's store again, for a test that adds to it."""
    return shutil.copytree(finished[0].parent / "store", tmp_path / "store")
