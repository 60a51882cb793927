"""Shared fixtures: tiny models and data built on the spot, one temp home for everything that keeps state."""

import os
import subprocess
import tempfile

# Before any library reads them: no network, no shared state, one thread per process on a 2-core machine.
_HOME = tempfile.mkdtemp(prefix="icl-embed-tests-")
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HOME=f"{_HOME}/hf",
    MTEB_CACHE=f"{_HOME}/mteb",
    PREFECT_HOME=f"{_HOME}/prefect",
    PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW="ignore",
    PREFECT_LOCAL_STORAGE_PATH=f"{_HOME}/prefect-results",
    TOKENIZERS_PARALLELISM="false",
)

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.tiny_models import build_model  # noqa: E402

# The same examples in every run: a change is judged by its own failures, not by the dice.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 4-layer Llama-type model folder."""
    return build_model(tmp_path_factory.mktemp("tiny") / "model", layers=4)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(argv, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)
