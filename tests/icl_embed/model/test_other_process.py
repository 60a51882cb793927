"""Loaded models in other processes: pickled and copied ones compute the same, a fork does no harm."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from icl_embed.config import RerankConfig
from icl_embed.errors import ModelError
from icl_embed.examples import Example
from icl_embed.model.cpu import kernels
from icl_embed.model.embedder import Embedder
from icl_embed.model.encoder_pool import EncoderPool
from icl_embed.rerank.reranker import Reranker

EXAMPLES = [Example("red cat", "blue dog"), Example("green fish", "yellow bird")]
TEXTS = ["sun moon star", "a big red bird", "river"]
PAIRS = [("red cat", text) for text in TEXTS]

UNPICKLE = """
import pickle, sys
import numpy as np
with open(sys.argv[1], "rb") as file:
    for one, method, arguments, expected in pickle.load(file):
        found = getattr(one, method)(**arguments)
        print("close", np.abs(found - expected).max() < 1e-6)
"""


def run(script: str, *arguments: str, **variables: str) -> str:
    """What a fresh process prints; one that hangs is killed and fails."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(params=[False, True], ids=["as here", "fast"])
def embedder(tiny_model: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Embedder:
    if request.param:  # what other processors choose
        monkeypatch.setattr(kernels, "onednn_is_faster", kernels.onednn_is_right)
    return Embedder.load(tiny_model, device="cpu", dtype="float32")


def make_reranker(tiny_model: Path) -> Reranker:
    from icl_embed.rerank.folder import start_from

    config = RerankConfig(start_layer=2, compress_layers=(), max_tokens=96)
    return Reranker(*start_from(tiny_model, config, device=torch.device("cpu"), dtype=torch.float32))


@pytest.mark.parametrize("made", [copy.deepcopy, copy.copy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_gives_the_same_vectors_and_takes_the_same_tasks(embedder: Embedder, made) -> None:
    task = embedder.compile_task("find", EXAMPLES)
    expected = embedder.encode_queries(TEXTS, task=task)
    other = made(embedder)
    assert other is not embedder and (other.settings, other.folder) == (embedder.settings, embedder.folder)
    for one in (task, made(task)):
        np.testing.assert_allclose(other.encode_queries(TEXTS, task=one), expected, atol=1e-6)
    again = other.encode_queries(TEXTS, instruction="find", examples=EXAMPLES)
    np.testing.assert_allclose(again, expected, atol=1e-6)


def test_a_deep_copy_has_weights_of_its_own_and_an_unsaved_model_is_known_by_its_copies(
    tiny_model: Path,
) -> None:
    loaded = Embedder.load(tiny_model, device="cpu", dtype="float32")
    unsaved, stranger = (Embedder(loaded.model, loaded.tokenizer, loaded.settings) for _ in range(2))
    other = copy.deepcopy(unsaved)
    task = unsaved.compile_task("find", EXAMPLES)
    expected = unsaved.encode_queries(TEXTS, task=task)
    np.testing.assert_allclose(other.encode_queries(TEXTS, task=task), expected, atol=1e-6)
    with pytest.raises(ModelError, match="another model"):
        stranger.encode_queries(TEXTS, task=task)
    other.model.embed_tokens.weight.data.mul_(2)
    np.testing.assert_array_equal(unsaved.encode_queries(TEXTS, task=task), expected)
    assert np.abs(other.encode_passages(TEXTS) - unsaved.encode_passages(TEXTS)).max() > 1e-3


def test_a_copied_reranker_gives_the_same_scores(tiny_model: Path) -> None:
    reranker = make_reranker(tiny_model)
    expected = reranker.score(PAIRS)
    for other in (copy.deepcopy(reranker), pickle.loads(pickle.dumps(reranker))):
        np.testing.assert_allclose(other.score(PAIRS), expected, atol=1e-6)


def test_what_was_pickled_works_in_a_fresh_process(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "onednn_is_faster", kernels.onednn_is_right)  # there it may be otherwise
    embedder = Embedder.load(tiny_model, device="cpu", dtype="float32")
    task = embedder.compile_task("find", EXAMPLES)
    reranker = make_reranker(tiny_model)
    content = [
        (
            embedder,
            "encode_queries",
            {"texts": TEXTS, "task": task},
            embedder.encode_queries(TEXTS, task=task),
        ),
        (reranker, "score", {"pairs": PAIRS}, reranker.score(PAIRS)),
    ]
    (tmp_path / "pickled").write_bytes(pickle.dumps(content))
    printed = run(UNPICKLE, str(tmp_path / "pickled"))
    assert printed.count("close True") == 2, printed


def test_a_pool_says_why_it_cannot_be_pickled(tiny_model: Path) -> None:
    pool = EncoderPool.__new__(EncoderPool)
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(ModelError, match="start one where it is needed"):
            copied(pool)


FORK = """
import logging, os, signal, sys, threading
import numpy as np, torch
from icl_embed import Embedder, Reranker

logging.basicConfig()
torch.set_num_threads(2)
embedder = Embedder.load(sys.argv[1], device="cpu", dtype="float32")
texts = ["sun moon star " * 100 + str(number) for number in range(8)]
expected = embedder.encode_passages(texts)

def encode(threads=None):
    if threads:
        torch.set_num_threads(threads)
    print("same", np.abs(embedder.encode_passages(texts) - expected).max() < 1e-5, torch.get_num_threads())

child = os.fork()
if not child:
    signal.alarm(90)  # a child that hangs is killed and fails
    encode()
    encode(threads=2)  # as servers do after a fork
    Embedder.load(sys.argv[1], device="cpu", dtype="float32").encode_passages(texts)
    thread = threading.Thread(target=encode, args=(2,))
    thread.start()
    thread.join()
    sys.stdout.flush()
    os._exit(0)
_, status = os.waitpid(child, 0)
encode()
sys.exit(os.waitstatus_to_exitcode(status) and 1)
"""


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="no forks")
def test_a_child_of_a_fork_computes_though_its_parent_had_several_threads(tiny_model: Path) -> None:
    printed = run(FORK, str(tiny_model), OMP_NUM_THREADS="2")
    assert printed.count("same True 1\n") == 2, printed
    assert printed.count("same True 2\n") == 2, printed  # a thread of the child's own, and the parent
    assert printed.count("was forked after a model had computed") == 1, printed


def resident_megabytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


@pytest.mark.skipif(
    sys.platform != "linux" or not kernels.onednn_is_right(torch.float32), reason="no oneDNN, or no /proc"
)
def test_memory_does_not_grow_with_texts_of_new_lengths(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "onednn_is_faster", kernels.onednn_is_right)  # it keeps products by length
    embedder = Embedder.load(tiny_model, device="cpu", dtype="float32")
    for length in (1, 50, 110):
        embedder.encode_passages(["sun " * length])
    before = resident_megabytes()
    for length in range(5, 105):
        embedder.encode_passages(["sun " * length])
    assert resident_megabytes() <= 1.05 * before, f"from {before} to {resident_megabytes()} MiB"
