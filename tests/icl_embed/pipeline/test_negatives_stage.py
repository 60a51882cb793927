"""The stage ``negatives``: what its key holds, and its negatives by the base model's vectors."""

import pyarrow.parquet as pq

from icl_embed.pipeline.build import build
from icl_embed.pipeline.run import open_run
from tests.tiny_project import build_project

DENSE = ['negatives.methods=["dense"]', "negatives.max_positive_ratio=100"]


def test_settings_left_alone_change_no_key_and_those_of_dense_search_do(tmp_path):
    preset = str(build_project(tmp_path))

    def key(*asked):
        return open_run(preset, list(asked)).keys.negatives

    assert sorted(key().settings["negatives"]) == [
        "max_positive_ratio", "methods", "per_query", "rank_from", "rank_to",
    ]  # fmt: skip
    assert "vectors" not in key().settings
    assert key("negatives.shard_queries=7") == key()
    assert key(*DENSE).settings["vectors"] == "float16"
    assert key(*DENSE, 'negatives.search="faiss"').fingerprint != key(*DENSE).fingerprint


def test_the_base_model_mines_by_its_vectors_and_leaves_no_scratch(tmp_path):
    run = open_run(str(build_project(tmp_path)), [*DENSE, "negatives.shard_queries=5"])
    for name in (*run.keys.datasets.values(), run.keys.pool, run.keys.base_model, run.keys.negatives):
        artefact = build(run, name)
    rows = pq.read_table(artefact.path / "train.parquet").to_pylist()
    assert rows and all(row["negatives"] and row["positive"] not in row["negatives"] for row in rows)
    kept = [one["kept"] for one in artefact.manifest.counts.values()]
    assert sum(one.get("dense", 0) for one in kept) > 0
    assert not run.store.work_dir(run.keys.negatives).exists()
