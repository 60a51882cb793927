"""Vectors on disk: served again, to the same model and prompt alone, and never when they are not whole."""

import numpy as np
import pytest

from icl_embed.errors import EvaluationError
from icl_embed.examples import Example
from icl_embed.model.cached_encoding import CachingEncoder, Setting
from icl_embed.model.vector_cache import ShardedVectors, measure_cache, shrink_cache
from tests.icl_embed.evaluation.runs.local_store import RecordingEncoder

TEXTS = [f"text {number}" for number in range(10)]
ZERO = Setting("zero-shot", "find")


@pytest.fixture
def vectors(tmp_path):
    return ShardedVectors(
        tmp_path / "vectors", {"fingerprint": "m1", "dtype": "float32"}, {"query": {"query_tokens": 64}}
    )


def cached(encoder, store, chunk_texts=4):
    return CachingEncoder(encoder, store=store, chunk_texts=chunk_texts)


def test_a_second_process_encodes_nothing_and_gets_the_same_vectors(encoder, vectors, prompts):
    first = cached(encoder, vectors)
    passages, queries = first.passages(TEXTS), first.queries(TEXTS, ZERO)
    other = RecordingEncoder(prompts)
    again = cached(other, vectors)
    assert np.array_equal(again.passages(list(reversed(TEXTS))), passages[::-1])
    assert np.array_equal(again.queries(TEXTS, ZERO), queries)
    assert other.calls == []
    assert (again.effort.queries, again.effort.passages) == (0, 0)


def test_all_settings_share_passages_and_no_setting_shares_queries(encoder, vectors, prompts):
    settings = [
        ZERO,
        Setting("other instruction", "find the answer"),
        Setting("1-shot", "find", (Example("a", "b"),)),
        Setting("2-shot", "find", (Example("a", "b"), Example("c", "d"))),
        Setting("2-shot, other order", "find", (Example("c", "d"), Example("a", "b"))),
        Setting("query and response swapped", "find", (Example("b", "a"),)),
    ]
    for setting in settings:
        one = cached(RecordingEncoder(prompts), vectors)
        one.passages(TEXTS)
        found = one.queries(TEXTS, setting)
        assert one.effort.queries == len(TEXTS)
        assert one.effort.passages == (len(TEXTS) if setting is ZERO else 0)
        expected = CachingEncoder(RecordingEncoder(prompts)).queries(TEXTS, setting)
        assert np.allclose(found, expected)


@pytest.mark.parametrize(
    ("identity", "budgets"),
    [
        ({"fingerprint": "m2", "dtype": "float32"}, {"query": {"query_tokens": 64}}),
        ({"fingerprint": "m1", "dtype": "bfloat16"}, {"query": {"query_tokens": 64}}),
        ({"fingerprint": "m1", "dtype": "float32"}, {"query": {"query_tokens": 65}}),
    ],
    ids=["another model", "another number format", "another length"],
)
def test_vectors_of_another_model_or_length_are_never_served(encoder, vectors, prompts, identity, budgets):
    cached(encoder, vectors).queries(TEXTS, ZERO)
    other = cached(RecordingEncoder(prompts), ShardedVectors(vectors.root, identity, budgets))
    other.queries(TEXTS, ZERO)
    assert other.effort.queries == len(TEXTS)


def test_a_query_and_a_passage_of_the_same_text_are_two_vectors(encoder, vectors):
    encoder.encode_passages = lambda texts, **_: -encoder.encode_queries(texts, instruction="")
    one = cached(encoder, vectors)
    assert np.allclose(one.passages(TEXTS), -one.queries(TEXTS, ZERO))


def test_texts_are_encoded_in_chunks_and_each_is_kept_at_once(encoder, vectors, prompts):
    class Killed(RecordingEncoder):
        def encode_passages(self, texts, **more):
            if len(self.calls) >= 8:
                raise KeyboardInterrupt
            return super().encode_passages(texts, **more)

    with pytest.raises(KeyboardInterrupt):
        cached(Killed(prompts), vectors).passages(TEXTS)
    again = cached(encoder, vectors)
    again.passages(TEXTS)
    assert again.effort.passages == 2
    assert [call[1] for call in encoder.calls] == TEXTS[8:]


@pytest.mark.parametrize("damage", ["cut off", "one bit", "no safetensors"])
def test_a_damaged_shard_is_encoded_again_with_a_warning(encoder, vectors, prompts, caplog, damage):
    whole = cached(encoder, vectors).passages(TEXTS)
    path = sorted(vectors.root.glob("*/*.safetensors"))[0]
    data = bytearray(path.read_bytes())
    if damage == "cut off":
        del data[-7:]
    elif damage == "one bit":
        data[-3] ^= 1
    else:
        data[:] = b"x"
    path.write_bytes(data)
    again = cached(RecordingEncoder(prompts), vectors)
    assert np.array_equal(again.passages(TEXTS), whole)
    assert again.effort.passages in (2, 4)  # the texts of one shard
    assert f"{path} is damaged" in caplog.text


def test_half_written_files_are_not_shards(encoder, vectors, prompts):
    shelf = vectors.shelf(("passage",))
    shelf.folder.mkdir(parents=True)
    (shelf.folder / ".abc.safetensors.partial-12").write_bytes(b"half")
    assert list(shelf.blocks()) == []


def test_a_vector_that_is_not_finite_or_zero_is_never_kept(encoder, vectors):
    for bad in (np.nan, np.inf, 0.0):
        encoder.encode_passages = lambda texts, bad=bad, **_: np.full((len(texts), 48), bad, np.float32)
        with pytest.raises(EvaluationError, match="no score would mean anything"):
            cached(encoder, vectors).passages(TEXTS)
    assert measure_cache(vectors.root).bytes == 0


def test_kept_vectors_are_mapped_from_disk_not_read_into_memory(encoder, vectors):
    cached(encoder, vectors).passages(TEXTS)
    blocks = list(vectors.shelf(("passage",)).blocks())
    assert sum(len(digests) for digests, _ in blocks) == len(TEXTS)
    assert all(isinstance(block, np.memmap) for _, block in blocks)


def test_the_cache_shrinks_by_what_was_used_longest_ago(encoder, vectors, prompts):
    import os

    one = cached(encoder, vectors)
    one.queries(TEXTS, ZERO)
    one.queries(TEXTS, Setting("other", "other"))
    old, new = (vectors.shelf(("query", name, ())).folder for name in ("find", "other"))
    os.utime(old, (1, 1))
    total = measure_cache(vectors.root)
    assert total.shelves == 2
    assert shrink_cache(vectors.root, total.bytes - 1) > 0
    assert not old.exists()
    assert new.exists()
    shrink_cache(vectors.root, 0)
    assert measure_cache(vectors.root).bytes == 0
    one.passages(TEXTS)  # a deleted folder is made again


def test_a_setting_with_very_many_example_sets_leaves_no_shelf_per_query(encoder, vectors):
    from icl_embed.examples import Selection

    texts = [f"text {number}" for number in range(70)]

    def choose(queries):
        return Selection.of([(Example(f"for {query}", "yes"),) for query in queries])

    choose.name = "one each"
    cached(encoder, vectors).queries(texts, Setting("nearest", "find", choose=choose))
    assert measure_cache(vectors.root).shelves == 0
