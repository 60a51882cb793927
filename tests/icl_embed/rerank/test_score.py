from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from icl_embed.config import RerankConfig
from icl_embed.errors import ConfigError, DataError, ModelError
from icl_embed.rerank.folder import HEADS_NAME, SETTINGS_NAME, export_reranker, start_from
from icl_embed.rerank.pairs import CONTAINS_ANSWER, PairBuilder
from icl_embed.rerank.reranker import Reranker
from icl_embed.rerank.shape import Shape, head_layers, lightweight_shape
from icl_embed.rerank.ways import Cascade
from tests.icl_embed.rerank.conftest import CONFIG, FAMILIES, PAIRS


@pytest.mark.parametrize("family", FAMILIES)
def test_sharing_the_query_changes_no_score(make_reranker: Callable[..., Reranker], family: str) -> None:
    reranker = make_reranker(family)
    for shape in (reranker.shape(), reranker.shape(compress_ratio=2), reranker.shape(cutoff_layer=2)):
        shared = reranker.score_exits(PAIRS, shape).scores
        apart = reranker.score_exits(PAIRS, shape, share_queries=False).scores
        np.testing.assert_allclose(shared, apart, rtol=1e-4, atol=1e-5)


def test_batch_size_and_order_change_no_score(reranker: Reranker) -> None:
    expected = reranker.score(PAIRS, compress_ratio=4)
    np.testing.assert_allclose(
        reranker.score(PAIRS, compress_ratio=4, batch_tokens=1), expected, rtol=1e-4, atol=1e-5
    )
    backwards = reranker.score(PAIRS[::-1], compress_ratio=4)[::-1]
    np.testing.assert_allclose(backwards, expected, rtol=1e-4, atol=1e-5)
    assert reranker.score([]).shape == (0,)


def test_rank_returns_the_best_first(reranker: Reranker) -> None:
    passages = [passage for _, passage in PAIRS]
    scores = reranker.score([("the red cat", passage) for passage in passages], cutoff_layer=3)
    ranked = reranker.rank("the red cat", passages, top_k=2, cutoff_layer=3)
    assert [item.position for item in ranked] == np.argsort(-scores)[:2].tolist()
    assert ranked[0].passage == passages[ranked[0].position]
    assert ranked[0].score >= ranked[1].score


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_saving_and_loading_keeps_every_score(
    make_reranker: Callable[..., Reranker], tmp_path: Path, family: str
) -> None:
    reranker = make_reranker(family)
    export_reranker(reranker.model, reranker.tokenizer, reranker.settings, tmp_path)
    loaded = Reranker.load(tmp_path, device="cpu", dtype="float32")
    assert loaded.settings == reranker.settings
    shape = reranker.shape(compress_ratio=2)
    found = loaded.score_exits(PAIRS, shape).scores  # perhaps with faster products
    np.testing.assert_allclose(found, reranker.score_exits(PAIRS, shape).scores, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found, loaded.score_exits(PAIRS, shape).scores)
    assert not [path for path in tmp_path.iterdir() if path.suffix in {".bin", ".pt", ".pkl"}]


def test_a_damaged_folder_is_refused(reranker: Reranker, tmp_path: Path) -> None:
    export_reranker(reranker.model, reranker.tokenizer, reranker.settings, tmp_path)
    settings = json.loads((tmp_path / SETTINGS_NAME).read_bytes())
    (tmp_path / SETTINGS_NAME).write_text(json.dumps({**settings, "head_layers": [2, 4]}))
    with pytest.raises(ModelError, match="does not fit"):
        Reranker.load(tmp_path, device="cpu", dtype="float32")
    (tmp_path / SETTINGS_NAME).write_text(json.dumps({**settings, "max_tokens": -1}))
    with pytest.raises(ModelError, match="max_tokens"):
        Reranker.load(tmp_path, device="cpu", dtype="float32")
    (tmp_path / SETTINGS_NAME).write_text(json.dumps(settings))
    (tmp_path / HEADS_NAME).write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="cannot read the score heads"):
        Reranker.load(tmp_path, device="cpu", dtype="float32")
    (tmp_path / SETTINGS_NAME).unlink()
    with pytest.raises(ModelError, match="not a reranker of this package"):
        Reranker.load(tmp_path, device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoff_layer": 5}, "no score head at layer 5"),
        ({"cutoff_layer": 0}, "no score head at layer 0"),
        ({"compress_ratio": 3}, "compress_ratio is 3"),
        ({"compress_ratio": 2, "compress_layers": (4,), "cutoff_layer": 3}, "never enters a later one"),
        ({"compress_ratio": 2, "compress_layers": (2, 1)}, "ascending"),
        ({"compress_ratio": 2, "cutoff_layer": 1}, "no compression layer lies below cutoff_layer 1"),
    ],
)
def test_an_impossible_depth_or_width_is_refused(
    reranker: Reranker, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        reranker.score(PAIRS, **options)


BLANKS = [("a", " \n"), ("a", "b"), ("q", ""), ("a", ""), ("a", "fish " * 20), ("a", "dog")]


@pytest.mark.parametrize("options", [{}, {"cutoff_layer": 3, "compress_ratio": 2, "compress_layers": (1,)}])
def test_a_blank_passage_scores_below_all_others_and_changes_none(
    reranker: Reranker, options: dict[str, object]
) -> None:
    scores = reranker.score(BLANKS, **options)
    alone = reranker.score([pair for pair in BLANKS if pair[1].strip()], **options)
    np.testing.assert_allclose(scores[[1, 4, 5]], alone, atol=1e-5)
    assert scores[[0, 2, 3]].max() < alone.min()
    assert reranker.probabilities(BLANKS, **options)[[0, 2, 3]].max() < 1e-6
    assert len(reranker.score([("q", "")], **options)) == 1
    ranked = reranker.rank("a", ["", "b", "\t", "dog"], **options)
    assert {one.position for one in ranked[:2]} == {1, 3}
    assert len(ranked) == 4


def test_a_cascade_puts_blank_passages_below_those_it_left_behind(reranker: Reranker) -> None:
    cascade = Cascade(((1, 1),), reranker.shape())
    found = reranker.score_cascade(BLANKS, cascade)
    alone = reranker.score_cascade([pair for pair in BLANKS if pair[1].strip()], cascade)
    np.testing.assert_allclose(found.scores[[1, 4, 5]], alone.scores, atol=1e-5)
    assert found.scores[[0, 3]].max() < alone.scores.min()
    assert found.layers.tolist() == [0, alone.layers[0], 0, 0, *alone.layers[1:]]
    assert found.flops == (*alone.flops, 0)


def test_an_empty_query_is_refused(reranker: Reranker) -> None:
    with pytest.raises(DataError, match="query 0 of 1 is empty"):
        reranker.score([("", "b")])


@pytest.mark.parametrize("pair", ["ab", ("a",), ("a", 3), None, ("a", "b", "c")])
def test_what_is_not_a_pair_of_texts_is_refused(reranker: Reranker, pair: object) -> None:
    with pytest.raises(DataError, match=r"pairs\[1\] must be \(query, passage\)"):
        reranker.score([("a", "b"), pair])


def test_bad_arguments_of_rank_are_refused(reranker: Reranker) -> None:
    with pytest.raises(DataError, match="found one text"):
        reranker.rank("the cat", "a dog")
    with pytest.raises(ConfigError, match="top_k must be at least 1"):
        reranker.rank("the cat", ["a dog"], top_k=0)
    with pytest.raises(ConfigError, match="batch_tokens must be at least 1"):
        reranker.rank("the cat", ["a dog"], batch_tokens=0)
    assert reranker.rank("the cat", []) == []


def test_equal_pairs_are_scored_once_and_tie_in_order(reranker: Reranker) -> None:
    rows: list[int] = []
    reranker.model.decoder.norm.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    scores = reranker.score([*PAIRS, *PAIRS[::-1]], cutoff_layer=1)
    assert rows == [len(PAIRS)]
    np.testing.assert_array_equal(scores, [*scores[:4], *scores[3::-1]])
    ranked = reranker.rank("the red cat", ["fish", "a dog", "fish", "a dog"])
    assert [item.position for item in ranked] in ([0, 2, 1, 3], [1, 3, 0, 2])


@pytest.mark.parametrize("room", [40, 60, 90])
def test_batches_become_smaller_when_memory_runs_out(
    reranker: Reranker, room: int, caplog: pytest.LogCaptureFixture
) -> None:
    shape, cascade = reranker.shape(compress_ratio=2), Cascade(((1, 2),), Shape(4))
    pairs = [(query, passage) for query in ("the red cat", "a bird") for _, passage in PAIRS]
    expected, sifted = reranker.score_exits(pairs, shape).scores, reranker.score_cascade(pairs, cascade)
    sizes: list[int] = []

    def hold(_: object, args: tuple[torch.Tensor]) -> None:
        sizes.append(args[0].shape[1])
        if sizes[-1] > room:
            raise torch.OutOfMemoryError("out of memory")

    reranker.model.decoder.layers[1].register_forward_pre_hook(hold)
    with caplog.at_level(logging.WARNING):
        found = reranker.score_exits(pairs, shape).scores
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert caplog.text.count("out of memory") == 1
    tries = len(sizes)
    reranker.score_exits(pairs, shape)
    assert max(sizes[tries:]) <= room, "what was learned in one call was forgotten in the next"
    again = reranker.score_cascade(pairs, cascade)
    np.testing.assert_allclose(again.scores, sifted.scores, rtol=1e-5, atol=1e-5)


def test_a_pair_that_does_not_fit_the_memory_is_a_clear_error(reranker: Reranker) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    reranker.model.decoder.layers[1].register_forward_pre_hook(full)
    with pytest.raises(ModelError, match=r"one pair of \d+ tokens does not fit the memory"):
        reranker.score(PAIRS)
    with pytest.raises(ModelError, match=r"one pair of \d+ tokens does not fit the memory"):
        reranker.score_cascade(PAIRS, Cascade(((1, 2),), Shape(4)))


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_in_bf16_are_those_in_fp32_up_to_rounding(
    make_reranker: Callable[..., Reranker], tmp_path: Path, family: str
) -> None:
    reranker = make_reranker(family)
    export_reranker(reranker.model, reranker.tokenizer, reranker.settings, tmp_path)
    coarse = Reranker.load(tmp_path, device="cpu", dtype="bfloat16")
    for options in ({}, {"compress_ratio": 4}):
        np.testing.assert_allclose(
            coarse.score(PAIRS, **options), reranker.score(PAIRS, **options), rtol=0.1, atol=0.2
        )


def test_no_more_tokens_than_the_model_holds(reranker: Reranker, tmp_path: Path) -> None:
    export_reranker(reranker.model, reranker.tokenizer, reranker.settings, tmp_path)
    short = Reranker.load(tmp_path, device="cpu", dtype="float32", max_tokens=60)
    assert max(map(len, short.pairs.pairs([("cat " * 99, "dog " * 99)]))) == 60
    with pytest.raises(ConfigError, match="max_tokens is 2049, but the model holds 2048"):
        Reranker.load(tmp_path, device="cpu", dtype="float32", max_tokens=2049)


def test_a_score_that_is_not_finite_is_refused(reranker: Reranker) -> None:
    with torch.no_grad():
        reranker.model.heads.by_layer["4"][0] = torch.nan
    assert np.isfinite(reranker.score(PAIRS, cutoff_layer=3)).all()
    with pytest.raises(ModelError, match="pair 0"):
        reranker.score(PAIRS)


def test_heads_always_include_the_last_layer() -> None:
    assert head_layers(4, 2, 9) == (4, 6, 8, 9)
    assert head_layers(8, 1, 10) == (8, 9, 10)
    assert head_layers(3, 2, 3) == (3,)
    with pytest.raises(ConfigError, match="the model has 3 layers"):
        head_layers(4, 1, 3)


def test_the_lightweight_shape_is_the_middle_head_that_compression_reaches() -> None:
    heads = (4, 6, 8, 10, 12)
    shape = lightweight_shape(RerankConfig(compress_layers=(4, 8), compress_ratio=2), heads)
    assert (shape.cutoff_layer, shape.compress_ratio, shape.compress_layers) == (8, 2, (4,))
    assert lightweight_shape(RerankConfig(cutoff_layer=10, compress_ratio=1), heads).cutoff_layer == 10
    with pytest.raises(ConfigError, match="no score head at layer 5"):
        lightweight_shape(RerankConfig(cutoff_layer=5), heads)


def test_a_config_that_does_not_fit_the_model_is_refused(folders: Callable[[str], Path]) -> None:
    place = {"device": torch.device("cpu"), "dtype": torch.float32}
    with pytest.raises(ConfigError, match="start_layer is 9"):
        start_from(folders("llama"), CONFIG.model_copy(update={"start_layer": 9}), **place)
    with pytest.raises(ConfigError, match="compress_layers"):
        start_from(folders("llama"), CONFIG.model_copy(update={"compress_layers": (4,)}), **place)


def test_the_prompt_is_the_papers_and_is_never_cut(reranker: Reranker) -> None:
    tokenizer = reranker.tokenizer
    [short] = reranker.pairs.pairs([("the cat", "a dog")])
    text = tokenizer.decode(short.query + short.passage + short.after, skip_special_tokens=True)
    assert text == f"A: the cat\nB: a dog\n{CONTAINS_ANSWER}"
    long = "cat dog fish " * 200
    small = PairBuilder(tokenizer, 80, CONTAINS_ANSWER)
    fixed = len(small.pairs([("a", "b")])[0]) - 2
    for query, passage in [(long, long), ("the cat", long), (long, "dog")]:
        [pair] = small.pairs([(query, passage)])
        assert len(pair) <= 80
        assert pair.after == short.after
        assert pair.passage
    [both] = small.pairs([(long, long)])
    assert len(both) == 80
    assert len(both.passage) == (80 - fixed) - int((80 - fixed) * 0.75)
    with pytest.raises(ConfigError, match="max_tokens is 20"):
        PairBuilder(tokenizer, 20, CONTAINS_ANSWER)


def test_a_prompt_that_goes_first_is_part_of_what_candidates_share(reranker: Reranker) -> None:
    builder = PairBuilder(reranker.tokenizer, 80, CONTAINS_ANSWER, "before")
    one, other = builder.pairs([("the cat", "a dog"), ("the cat", "dog fish " * 90)])
    text = reranker.tokenizer.decode(one.query + one.passage + one.after, skip_special_tokens=True)
    assert text == f"{CONTAINS_ANSWER}\nA: the cat\nB: a dog\n"
    assert one.query == other.query
    [usual] = reranker.pairs.pairs([("the cat", "a dog")])
    assert len(one.after) < len(usual.after)
    assert len(other) == 80


def test_a_text_that_spells_a_control_token_is_plain_text(reranker: Reranker) -> None:
    [pair] = reranker.pairs.pairs([("</s>", "<s></s>")])
    assert not {1, 2} & set(pair.passage)
    assert 2 not in pair.query
