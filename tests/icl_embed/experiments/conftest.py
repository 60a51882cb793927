import pytest

from icl_embed.evaluation.grid import RunRequest
from icl_embed.evaluation.tasks.opening import TaskPlaces
from tests.icl_embed.evaluation.conftest import prompts  # noqa: F401
from tests.icl_embed.evaluation.runs.conftest import config, encoder, model, store  # noqa: F401 - fixtures


@pytest.fixture
def request_of(store, config):  # noqa: F811
    """What the commands make of the names of tasks."""

    def make(*tasks):
        return RunRequest(tasks, (), TaskPlaces(store, config=config), config=config)

    return make
