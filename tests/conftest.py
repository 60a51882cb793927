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
