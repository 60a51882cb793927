"""Shared fixtures: tiny models and data built on the spot, one temp home for everything that keeps state."""

import os
import tempfile

# Before any library reads them: no network, no shared state, one thread per process on a 2-core machine.
_HOME = tempfile.mkdtemp(prefix="icl-embed-tests-")
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HOME=f"{_HOME}/hf",
    MTEB_CACHE=f"{_HOME}/mteb",
    PREFECT_HOME=f"{_HOME}/prefect",
    PREFECT_LOCAL_STORAGE_PATH=f"{_HOME}/prefect-results",
    TOKENIZERS_PARALLELISM="false",
)

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
