"""The part of ``make gpu-check`` that measures speed runs whole, here on the CPU, so that it is ready for a card."""

import json
from pathlib import Path

from tests.bench import gpu_speed, products


def test_every_figure_of_the_gpu_is_there(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    gpu_speed.main(["--model", str(tiny_model), "--device", "cpu", "--texts", "60", "--out", str(out)])
    found = json.loads(out.read_bytes())
    assert found["machine"]["accelerator"] == "cpu"
    assert found["prefix_tokens"] > 5 * 12
    assert min(found["seconds"].values()) > 0 and found["passage_share_of_peak"] > 0
    assert found["training"]["tokens_per_second"] > 0 and 0 < found["training"]["mfu"] < 1
    assert found["reranking"]["pairs_per_second"] > 0 and found["reranking"]["lightweight_is_faster"] > 0


def test_both_libraries_are_timed_on_every_product() -> None:
    found = products.measure(tokens=8, rounds=1)
    assert {"forward", "backward", "gated layer", "attention to a prefix"} == set(found)
    assert all(one["default_ms"] >= 0 and one["onednn_ms"] >= 0 for one in found.values())
