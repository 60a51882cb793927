import shutil
import time

import pytest

from icl_embed.errors import ModelError, StoreError
from icl_embed.store import Store
from icl_embed.store.models import EMBEDDERS, RERANKERS, find_model
from tests.icl_embed.store.test_lineage import build


def test_a_model_is_found_by_label_fingerprint_folder_and_as_the_newest(tmp_path):
    store = Store(tmp_path / "store")
    first = build(store, "embedder", {"seed": 1}, label="demo")
    time.sleep(1.1)  # manifests are dated to the second
    second = build(store, "embedder", {"seed": 2}, label="demo")
    reranker = build(store, "reranker", {"seed": 1}, label="demo")
    build(store, "report", {}, label="demo")
    assert find_model(store, "").artefact == second
    assert find_model(store, "", RERANKERS).artefact == reranker
    assert find_model(store, "demo").artefact == second  # not the report, which is newer
    assert find_model(store, "demo", RERANKERS).path == reranker.path
    for name in (first.reference, first.fingerprint[:8], f"embedder/{first.fingerprint[:8]}", first.path):
        assert find_model(store, name).artefact == first
    own = tmp_path / "own"
    own.mkdir()
    assert find_model(store, str(own)).artefact is None
    copy = shutil.copytree(first.path, tmp_path / "copy")  # with its manifest
    assert find_model(store, copy).artefact is None
    elsewhere = find_model(Store(tmp_path / "none"), first.path)
    assert (elsewhere.artefact, elsewhere.store.root) == (first, store.root)


def test_what_is_no_such_model_is_refused(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ModelError, match="holds no embedder; train one"):
        find_model(store, "")
    with pytest.raises(ModelError, match="neither a folder nor an artefact"):
        find_model(store, "someone/model")
    reranker = build(store, "reranker", {})
    for name in (reranker.reference, reranker.path):
        with pytest.raises(ModelError, match="is no embedder or base-model"):
            find_model(store, name, EMBEDDERS)
    (reranker.path / "x").write_text("torn")
    with pytest.raises(StoreError, match="run the flow again"):
        find_model(store, "", RERANKERS)
