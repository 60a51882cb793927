import shutil

import pytest

from tests.icl_embed.evaluation.conftest import prompts  # noqa: F401 - a fixture
from tests.icl_embed.few_shot.tasks import ExampleEncoder, build_task_pool


@pytest.fixture(scope="session")
def pool(tmp_path_factory):
    """The pool alone: the data sets it was built from, test splits included, are deleted."""
    home = tmp_path_factory.mktemp("selection")
    folder = build_task_pool(home)
    for name in ("answers", "ranks", "labels", "groups", "scores"):
        shutil.rmtree(home / name)
    return folder


@pytest.fixture
def encoder(prompts):  # noqa: F811
    return ExampleEncoder(prompts)
