import pytest

from icl_embed.config import EvaluateConfig, PromptConfig
from icl_embed.evaluation.models import OpenedModel
from icl_embed.evaluation.tasks.task import EvaluatedModel
from icl_embed.store import Store
from tests.icl_embed.evaluation.conftest import prompts  # noqa: F401 - a fixture
from tests.icl_embed.evaluation.runs.local_store import RecordingEncoder


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def encoder(prompts):  # noqa: F811
    return RecordingEncoder(prompts)


@pytest.fixture
def model(tmp_path, encoder):
    """A model whose encoder writes down what it encodes."""
    return opened(encoder, tmp_path)


@pytest.fixture
def config():
    return EvaluateConfig(label_experiments=2, cluster_sets=4, bootstrap_resamples=100)


def opened(encoder, folder, *, name="toy", fingerprint="00112233", **more):
    about = EvaluatedModel(name, fingerprint, folder, dtype="float32")
    model = OpenedModel(about, "ours", PromptConfig(), **more)
    model.__dict__["encoder"] = encoder  # where the cached property would keep it
    return model
