"""Search by blocks against a full sort, in memory, from a file, and from shards on disk."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_embed.config import EngineConfig
from icl_embed.errors import ConfigError, ModelError
from icl_embed.model import search
from icl_embed.model.search import UnitRows, best_passages
from icl_embed.model.stored_search import embed_to, faiss_index, search_devices, search_of


def slow(queries, passages, top_k):
    return np.argsort(-(queries @ passages.T), axis=1, kind="stable")[:, :top_k]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 60),
    st.integers(1, 70),
    st.sampled_from([1, 3, 8, 1000]),
    st.sampled_from([1, 40, 1 << 26]),
    st.sampled_from([1, 1, 3]),
)
def test_blocks_find_what_a_full_sort_finds_in_ties_too(
    seed, num_passages, top_k, at_once, scores_at_once, num_devices
):
    rng = np.random.default_rng(seed)
    queries = rng.integers(-1, 2, (7, 2)).astype(np.float32)  # few numbers: most scores are ties
    passages = rng.integers(-1, 2, (num_passages, 2)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "BLOCK_PASSAGES", at_once)
        patch.setattr(search, "SCORES_AT_ONCE", scores_at_once)
        found = best_passages(queries, passages, top_k=top_k, devices=num_devices * ["cpu"])
    expected = slow(queries, passages, top_k)
    assert np.array_equal(found.indices, expected)
    assert np.array_equal(found.scores, np.take_along_axis(queries @ passages.T, expected, axis=1))


@pytest.mark.parametrize(
    ("config", "device", "expected"),
    [
        (EngineConfig(), "auto", ("cpu",)),
        (EngineConfig(devices=("cpu", "cpu")), "auto", ("cpu",)),
        (EngineConfig(name="ray"), "auto", ("cpu",)),
        (EngineConfig(name="ray", devices=("cuda:0", "cuda:3")), "auto", ("cuda:0", "cuda:1")),
        (EngineConfig(), "auto", ("cuda:0", "cuda:1")),
        (EngineConfig(), "cuda:1", ("cuda:1",)),
        (EngineConfig(devices=("cuda:1",)), "auto", ("cuda:1",)),
        (EngineConfig(devices=("cuda:1", "cuda:1", "cpu")), "auto", ("cuda:1",)),
        (EngineConfig(), "auto", ("cuda",)),
    ],
)
def test_a_search_takes_the_gpus_of_this_machine(config, device, expected, monkeypatch):
    if expected[0] != "cpu":
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 1 if expected == ("cuda",) else 2)
    assert search_devices(config, device) == expected


def test_passages_that_get_better_towards_the_end_are_all_seen(monkeypatch):
    monkeypatch.setattr(search, "BLOCK_PASSAGES", 50)
    passages = np.arange(1, 1001, dtype=np.float32)[:, None]
    found = best_passages(np.ones((3, 1), np.float32), passages, top_k=2)
    assert found.indices.tolist() == [[999, 998]] * 3


def test_a_memory_mapped_file_in_float16_is_searched_as_its_numbers_say(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "BLOCK_PASSAGES", 64)
    rng = np.random.default_rng(0)
    full = UnitRows(rng.normal(size=(500, 384)).astype(np.float32))[:]
    queries = UnitRows(rng.normal(size=(9, 384)).astype(np.float32))[:]
    np.save(tmp_path / "passages.npy", full.astype(np.float16))
    stored = np.load(tmp_path / "passages.npy", mmap_mode="r")
    found = best_passages(queries, stored, top_k=20)
    assert np.array_equal(found.indices, slow(queries, np.asarray(stored, np.float32), 20))
    exact = np.take_along_axis(queries @ full.T, found.indices, axis=1)
    assert np.abs(found.scores - exact).max() < 1e-4


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_named(value, monkeypatch):
    monkeypatch.setattr(search, "BLOCK_PASSAGES", 4)
    good, bad = np.ones((9, 3), np.float32), np.ones((9, 3), np.float32)
    bad[6, 1] = value
    with pytest.raises(ModelError, match="vector of passage 6 is not finite"):
        best_passages(good, bad, top_k=2)
    with pytest.raises(ModelError, match="vector of query 6 is not finite"):
        best_passages(bad, good, top_k=2)


class Counting:
    """An encoder that counts what it encodes; vectors are those of a text's characters."""

    prompts = None
    dimension = 26

    def __init__(self):
        self.encoded = 0

    def encode_passages(self, texts, **_):
        self.encoded += len(texts)
        found = np.full((len(texts), self.dimension), 0.01, np.float32)
        for row, text in enumerate(texts):
            for letter in text:
                found[row, ord(letter) % self.dimension] += 1
        return found

    def encode_queries(self, texts, *, instruction, **_):
        return self.encode_passages([instruction + text for text in texts])


TEXTS = [f"{'abc' * (n % 5)} text number {n * 7919 % 1000} {'xyz' * (n % 3)}" for n in range(100)]


def test_vectors_on_disk_are_made_once_and_a_damaged_shard_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("icl_embed.model.stored_search.CHUNK_TEXTS", 16)

    def rows(encoder):
        return embed_to(tmp_path, encoder, {"model": "counting"})([*TEXTS, TEXTS[3]], None)

    first, second, third = Counting(), Counting(), Counting()
    made = rows(first)[:]
    assert first.encoded == 100
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-6)
    expected = UnitRows(Counting().encode_passages(TEXTS))[:]
    assert np.abs(made[:100] - expected).max() < 1e-3 and np.array_equal(made[100], made[3])
    assert np.array_equal(rows(second)[:], made) and second.encoded == 0
    shards = sorted(tmp_path.rglob("*.safetensors"))
    assert len(shards) == 7
    assert all(shard.stat().st_size < 16 * 26 * 2 + 16 * 16 + 300 for shard in shards), "two bytes a number"
    shards[0].write_bytes(shards[0].read_bytes()[:-9])
    assert np.array_equal(rows(third)[:], made)
    assert third.encoded in (4, 16) and "damaged" in caplog.text


def test_queries_of_another_instruction_are_other_vectors(tmp_path):
    embed = embed_to(tmp_path, Counting(), {"model": "counting"})
    assert not np.array_equal(embed(TEXTS, "find")[:], embed(TEXTS, "sort")[:])
    assert embed([], None).shape == (0, 26)


def test_faiss_finds_nearly_all_and_is_asked_only_where_there_are_many():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 16)).astype(np.float32)
    passages = UnitRows(centres[rng.integers(0, 20, 4000)] + rng.normal(size=(4000, 16)).astype(np.float32))[
        :
    ]
    queries = passages[:50]
    exact, found = best_passages(queries, passages, top_k=20), faiss_index(passages, probed=40)(queries, 20)
    shared = sum(len(set(one) & set(two)) for one, two in zip(exact.indices, found.indices, strict=True))
    assert 0.9 < shared / exact.indices.size <= 1
    few = search_of("faiss", 4001, ["cpu"])(passages)(queries, 20)
    assert np.array_equal(few.indices, exact.indices)


def test_faiss_that_is_not_installed_is_told_before_the_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'icl-embed\[mine\]'"):
        search_of("faiss", 1, ["cpu"])
    search_of("exact", 1, ["cpu"])
