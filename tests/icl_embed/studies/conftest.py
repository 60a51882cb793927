import pytest

from icl_embed.benchmark.grid import RunRequest
from icl_embed.benchmark.opening import TaskPlaces
from tests.icl_embed.benchmark.conftest import config, encoder, model, store  # noqa: F401 - fixtures
from tests.icl_embed.evaluate.conftest import prompts  # noqa: F401


@pytest.fixture
def request_of(store, config):  # noqa: F811
    """What the commands make of the names of tasks."""

    def make(*tasks):
        return RunRequest(tasks, (), TaskPlaces(store, config=config), config=config)

    return make
