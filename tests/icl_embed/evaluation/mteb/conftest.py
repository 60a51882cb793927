import pytest

from tests.icl_embed.evaluation.conftest import encoder, prompts

__all__ = ["encoder", "prompts"]


@pytest.fixture(autouse=True)
def no_network_and_no_cache_left(monkeypatch, tmp_path_factory):
    """The hub is out of reach, and what the datasets library caches goes with the test."""
    import datasets
    import huggingface_hub.constants

    cache = tmp_path_factory.mktemp("datasets-cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
