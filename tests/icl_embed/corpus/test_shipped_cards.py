"""Every shipped card for real: needs the package index (make slow)."""

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from icl_embed.corpus.dataset import build_dataset
from icl_embed.sources import load_catalog


@pytest.mark.slow
@pytest.mark.parametrize("name", load_catalog())
def test_a_shipped_card_gives_enough_rows_in_train_and_test(name, tmp_path):
    card = load_catalog()[name]
    downloads = Path(os.environ.get("ICL_EMBED_DOWNLOADS", "downloads"))
    limits = {"max_train_rows": 20_000, "max_test_queries": 1_000, "max_test_passages": 20_000}
    counts = build_dataset(card, downloads, tmp_path, **limits)
    assert counts["rows"]["train"] >= 100 and counts["rows"]["test"] >= 150
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    for row in rows:
        assert row["query"].strip()
        if card.kind in ("classification", "clustering"):
            assert row["label"]
        else:
            assert row["positives"]
        if card.kind == "reranking":
            assert len(row["negatives"]) >= 3
        if card.kind in ("sts", "pair_classification"):
            assert row["score"] is not None
    if card.kind == "retrieval":
        texts = {p["text"]: p["split"] for p in pq.read_table(tmp_path / "corpus.parquet").to_pylist()}
        assert all(texts[text] == row["split"] for row in rows for text in row["positives"])
