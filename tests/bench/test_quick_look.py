"""The benchmarks run from end to end on a tiny model, where the peers' environment exists."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench import encode, train
from tests.bench.protocol import ROOT

VENV = Path(os.environ.get("BENCH_VENV", ROOT / ".venv-bench"))

pytestmark = pytest.mark.skipif(
    not (ROOT / VENV / "bin" / "python").exists(),
    reason="the peers' environment is missing (make bench-venv, or BENCH_VENV)",
)


def test_encoding_agrees_with_both_peers_and_every_figure_is_there(tmp_path: Path) -> None:
    sizes = ["--queries", "12", "--passages", "12", "--rounds", "2", "--threads", "1"]
    result = encode.main(["--quick", *sizes, "--out", str(tmp_path / "encode.json")])
    assert result["min_cosine_vs_flagembedding"] >= 0.9999
    assert result["equality"]["sentence-transformers"]["passages"]["min_cosine_all"] >= 0.9999
    promised = {
        "few_speedup_vs_flagembedding", "few_time_vs_zero", "few_time_vs_zero_bf16", "passages_vs_flagembedding",
        "passages_vs_sentence_transformers", "passages_auto_dtype_vs_flagembedding",
    }  # fmt: skip
    assert all(result[key] > 0 for key in promised)


def test_training_runs_on_both_sides_with_examples(tmp_path: Path) -> None:
    result = train.main(["--quick", "--rounds", "1", "--threads", "1", "--out", str(tmp_path / "train.json")])
    found = result["by_data_set"]["made-up"]
    assert found["FlagEmbedding"]["examples_per_query"] > 1
    assert found["ours per_query"]["examples_per_query"] > 1
    assert result["useful_token_share"] >= 0.95
    assert result["speedup_vs_flagembedding"] > 0
