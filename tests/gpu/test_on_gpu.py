"""A GPU gives what the CPU gives, takes the memory it is given, and gives it back (``make gpu-check``)."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from icl_embed.config import RerankConfig
from icl_embed.examples import Example
from icl_embed.model.embedder import Embedder
from icl_embed.model.encoder_pool import EncoderPool
from icl_embed.rerank.folder import export_reranker, start_from
from icl_embed.rerank.reranker import Reranker
from tests.tiny_models import build_model
from tests.training_jobs import make_job, run_job, write_rows

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

EXAMPLES = [Example("red cat", "blue dog"), Example("green fish", "yellow bird")]
TEXTS = [f"{word} moon star " * (number % 40 + 1) for number, word in enumerate(["sun", "cat", "fire"] * 40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(
        tmp_path_factory.mktemp("gpu") / "model", layers=4, width=64, spread=0.1
    )  # heads of 16


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def vectors_of(embedder: Embedder) -> list[np.ndarray]:
    task = embedder.compile_task("find", EXAMPLES)
    return [
        embedder.encode_passages(TEXTS),
        embedder.encode_queries(TEXTS, instruction="find"),
        embedder.encode_queries(TEXTS, task=task),
    ]


def test_fp32_vectors_are_those_of_the_cpu(folder: Path) -> None:
    wanted = vectors_of(Embedder.load(folder, device="cpu", dtype="float32"))
    for found, expected in zip(
        vectors_of(Embedder.load(folder, device="cuda", dtype="float32")), wanted, strict=True
    ):
        assert np.abs(found - expected).max() < 1e-4


def test_bf16_vectors_point_where_those_of_fp32_do(folder: Path) -> None:
    wanted = vectors_of(Embedder.load(folder, device="cpu", dtype="float32"))
    embedder = Embedder.load(folder, device="cuda")
    assert embedder.dtype == "bfloat16"
    for found, expected in zip(vectors_of(embedder), wanted, strict=True):
        assert (found * expected).sum(axis=1).min() > 0.995


def test_a_pickled_task_of_the_cpu_is_used_on_the_gpu(folder: Path) -> None:
    task = Embedder.load(folder, device="cpu", dtype="float32").compile_task("find", EXAMPLES)
    embedder = Embedder.load(folder, device="cuda", dtype="float32")
    expected = embedder.encode_queries(TEXTS, task=embedder.compile_task("find", EXAMPLES))
    assert np.abs(embedder.encode_queries(TEXTS, task=task) - expected).max() < 1e-4


def test_memory_is_given_back(folder: Path) -> None:
    gc.collect()
    before = torch.cuda.memory_allocated()
    embedder = Embedder.load(folder, device="cuda")
    vectors_of(embedder)
    assert torch.cuda.memory_allocated() > before
    del embedder
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + 16 * 2**20  # workspaces of the libraries stay


def test_it_goes_on_with_smaller_batches_when_memory_runs_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embedder = Embedder.load(folder, device="cuda", dtype="float32")
    texts = [f"{text} {number}" for number, text in enumerate(TEXTS * 40)]
    expected = embedder.encode_passages(texts, batch_tokens=2048)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 96 * 2**20) / total)
    try:
        found = embedder.encode_passages(texts, batch_tokens=1 << 20)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory" in caplog.text
    assert np.abs(found - expected).max() < 1e-4


def test_two_processes_share_a_gpu(folder: Path) -> None:
    expected = Embedder.load(folder, device="cuda", dtype="float32").encode_passages(TEXTS)
    with EncoderPool(folder, ["cuda:0", "cuda:0"], dtype="float32") as pool:
        assert np.abs(pool.encode_passages(TEXTS, batch_tokens=400) - expected).max() < 1e-4


def losses(job_folder: Path, model: Path, device: str, dtype: str, **train: object) -> list[float]:
    rows = write_rows(job_folder.with_suffix(".parquet"))
    job = make_job(job_folder, model, rows, launch={"device": device}, **train)
    job = job.model_copy(update={"dtype": dtype})
    (job_folder / "job.json").write_text(job.model_dump_json(indent=1))
    log, _ = run_job(job, job_folder)
    return [line["loss"] for line in log]


@pytest.mark.parametrize("cached", [False, True])
def test_a_training_step_is_that_of_the_cpu(folder: Path, tmp_path: Path, cached: bool) -> None:
    found = losses(tmp_path / "gpu", folder, "cuda", "float32", gradient_cache=cached)
    expected = losses(tmp_path / "cpu", folder, "cpu", "float32", gradient_cache=cached)
    np.testing.assert_allclose(found, expected, rtol=5e-3)


def test_training_in_bf16_learns(folder: Path, tmp_path: Path) -> None:
    optimizer = {"steps": 60, "save_every": 60, "learning_rate": 3e-3}
    found = losses(tmp_path / "gpu", folder, "cuda", "bfloat16", optimizer=optimizer, num_negatives=1)
    assert all(math.isfinite(loss) for loss in found)
    assert np.mean(found[-10:]) < np.mean(found[:10])


def test_a_reranker_scores_as_on_the_cpu(folder: Path, tmp_path: Path) -> None:
    config = RerankConfig(start_layer=1, layer_step=1, compress_layers=(1, 2), max_tokens=96)
    model, tokenizer, settings = start_from(folder, config, device=torch.device("cpu"), dtype=torch.float32)
    export_reranker(model, tokenizer, settings, tmp_path)
    pairs = [("the red cat", text) for text in TEXTS]
    on_cpu = Reranker.load(tmp_path, device="cpu", dtype="float32")
    on_gpu = Reranker.load(tmp_path, device="cuda", dtype="float32")
    for options in ({}, {"compress_ratio": 2}, {"cutoff_layer": 2}):
        np.testing.assert_allclose(
            on_gpu.score(pairs, **options), on_cpu.score(pairs, **options), rtol=1e-3, atol=1e-3
        )
