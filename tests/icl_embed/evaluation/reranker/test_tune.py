from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from icl_embed.config import EngineConfig
from icl_embed.errors import ConfigError, EvaluationError
from icl_embed.evaluation.measurement import Bootstrap, average_difference
from icl_embed.evaluation.reranker.candidates import Candidates, ndcg_at_10, read_candidates
from icl_embed.evaluation.reranker.measure import Grid, score_grid, time_cascade
from icl_embed.evaluation.reranker.tuning import (
    CHOICE_NAME,
    Limit,
    choose_way,
    read_choice,
    shown_tried,
    tune_on,
    tune_reranker,
    way_of,
)
from icl_embed.progress import listening
from icl_embed.rerank.folder import export_reranker
from icl_embed.rerank.reranker import Reranker
from icl_embed.rerank.shape import Shape
from icl_embed.rerank.timed import RerankerPool, opened_reranker
from icl_embed.rerank.ways import (
    Cascade,
    WayRecord,
    cascades_over,
    exits_of,
    full_way,
    name_of,
    passes_of,
    record_way,
    shape_of,
    way_of_record,
    with_pass_of,
)
from tests.icl_embed.evaluation.reranker.first_stages import write_evaluation
from tests.icl_embed.rerank.conftest import CONFIG

HOW = Bootstrap(resamples=60)
RATIOS = (1, 2, 4)


@pytest.fixture
def inputs(tmp_path: Path) -> list[Candidates]:
    folders = [write_evaluation(tmp_path / name, name, 8, split="dev") for name in ("alpha", "beta")]
    return read_candidates(folders, top_k=8, max_queries=6, seed=0)


@pytest.fixture
def grid(reranker: Reranker, inputs: list[Candidates]) -> Grid:
    return score_grid(reranker, inputs, passes_of(reranker.settings, RATIOS), batch_tokens=8192)


def test_every_exit_of_every_width_is_read_off_one_pass_each(
    reranker: Reranker, inputs: list[Candidates], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = passes_of(reranker.settings, RATIOS)  # whole, and two ratios at both layers or either alone
    assert len(passes) == 1 + 2 * 3
    runs: list[tuple[str, Shape]] = []
    real = Reranker.score_exits

    def counted(self, pairs, shape, **options):
        runs.append((pairs[0][0], shape))
        return real(self, pairs, shape, **options)

    monkeypatch.setattr(Reranker, "score_exits", counted)
    grid = score_grid(reranker, inputs, passes, batch_tokens=8192)
    warm_up, measured = runs[: len(passes)], runs[len(passes) :]
    assert len(warm_up) == len(passes)
    assert len(measured) == len(set(measured)) == grid.num_queries * len(passes)


def test_what_an_exit_ranks_is_what_scoring_at_that_shape_gives(reranker: Reranker, grid: Grid) -> None:
    for shape in grid.exits:
        for one in grid.queries[:3]:
            expected = reranker.score(
                one.query.pairs,
                cutoff_layer=shape.cutoff_layer,
                compress_ratio=shape.compress_ratio,
                compress_layers=shape.compress_layers or None,
            )
            np.testing.assert_allclose(grid.scores(one, shape), expected, rtol=1e-4, atol=1e-5)


def test_a_cascade_read_off_the_passes_ranks_and_costs_what_running_it_does(
    reranker: Reranker, grid: Grid
) -> None:
    cascades = cascades_over(grid.exits, reranker.settings.head_layers)
    assert {len(cascade.stages) for cascade in cascades} == {1, 2}
    for cascade in cascades[::7]:
        foretold = grid.flops(cascade)
        for number, one in enumerate(grid.queries[:4]):
            found = reranker.score_cascade(one.query.pairs, cascade)
            np.testing.assert_array_equal(np.argsort(-grid.scores(one, cascade)), np.argsort(-found.scores))
            assert foretold[number] == found.flops[0]


def test_a_cascades_seconds_are_those_of_a_run(reranker: Reranker, grid: Grid) -> None:
    cascade = Cascade(((1, 0.5),), Shape(4))
    with pytest.raises(ConfigError, match="known once it was run"):
        grid.seconds(cascade)
    time_cascade(reranker, grid, cascade, batch_tokens=8192)
    assert (grid.seconds(cascade) > 0).all()


def test_quality_is_the_mean_over_data_sets_of_the_mean_over_queries(grid: Grid) -> None:
    way = Shape(2)
    by_hand = [
        np.mean([ndcg_at_10(q.query.relevance, grid.scores(q, way), q.query.judged) for q in one.queries])
        for one in grid.sets
    ]
    assert grid.quality(way) == pytest.approx(np.mean(by_hand))


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("max_loss", [0.0, 0.02, 0.1, 1.0])
def test_the_choice_is_the_cheapest_way_within_the_limit(grid: Grid, max_loss: float, safe: bool) -> None:
    ways = [*grid.exits, *cascades_over(grid.exits, (1, 2, 3, 4))]
    full = Shape(4)
    choice = choose_way(grid, ways, full, Limit(max_loss, safe, HOW))
    reference = grid.measurements(full)
    cheapest, cost = full, grid.flops(full).mean()
    for way in ways:  # the slow and obvious way
        loss = average_difference(list(zip(reference, grid.measurements(way), strict=True)), HOW)
        within = (loss.high if safe else loss.mean) <= max_loss + 1e-12
        if within and grid.flops(way).mean() < cost:
            cheapest, cost = way, grid.flops(way).mean()
    assert grid.flops(choice.chosen.way).mean() == cost
    assert grid.quality(choice.chosen.way) >= grid.quality(cheapest)
    assert choice.flops_saved == pytest.approx(1 - cost / grid.flops(full).mean())
    assert len(choice.tried) == len(ways)


def test_efficient_ways_are_those_that_nothing_cheaper_equals(grid: Grid) -> None:
    choice = choose_way(grid, list(grid.exits), Shape(4), Limit(1.0, how=HOW))
    for one in choice.tried:
        beaten = any(
            other.flops <= one.flops and other.quality.mean >= one.quality.mean and other is not one
            for other in choice.tried
        )
        assert one.is_efficient != beaten


def test_full_depth_is_always_allowed(grid: Grid) -> None:
    choice = choose_way(grid, [Shape(4)], Shape(4), Limit(0.0, True, HOW))
    assert choice.chosen.way == Shape(4)
    assert (choice.chosen.loss.mean, choice.flops_saved) == (0.0, 0.0)


def test_test_queries_are_refused(reranker: Reranker, tmp_path: Path) -> None:
    test = read_candidates([write_evaluation(tmp_path / "t", "t")], top_k=4, max_queries=4, seed=0)
    with pytest.raises(EvaluationError, match="these are test queries"):
        tune_on(reranker, test, limit=Limit(1.0), ratios=(1,), cascades=False, batch_tokens=8192)


def test_the_stage_writes_a_choice_that_can_be_read_and_run(
    reranker: Reranker, tmp_path: Path, make_reranker: Callable[..., Reranker]
) -> None:
    saved, out = tmp_path / "reranker", tmp_path / "out"
    export_reranker(reranker.model, reranker.tokenizer, reranker.settings, saved)
    dev = write_evaluation(tmp_path / "dev", "dev", 8, split="dev")
    tune = CONFIG.tune.model_copy(update={"max_loss": 20.0, "max_queries": 5, "safe": False})
    config = CONFIG.model_copy(update={"tune": tune, "top_k": 8})

    def run() -> bytes:
        counts = tune_reranker(
            saved, [dev], config, out, seed=3, bootstrap=HOW, device="cpu", dtype="float32"
        )
        assert counts["queries"] == 5
        return (out / CHOICE_NAME).read_bytes()

    assert run() == run()  # a pure function of its inputs: no times in it
    record = read_choice(out)
    assert record == read_choice(out / CHOICE_NAME)
    way = way_of(record, reranker.settings)
    assert record_way(way) == record.chosen
    assert record.chosen_result.is_allowed
    assert record.chosen_result.loss.mean <= 0.2 + 1e-9
    assert (record.bound, record.max_loss, record.datasets) == ("mean", 0.2, {"dev": 5})
    assert record.calibration is not None
    assert record.calibration.shape == shape_of(way)
    shown = shown_tried(record)
    assert record.chosen in [one.way for one in shown]
    assert len(shown) < len(record.tried)


def test_two_devices_find_what_one_does(reranker: Reranker, inputs: list[Candidates], tmp_path: Path) -> None:
    saved = tmp_path / "reranker"
    export_reranker(reranker.model, reranker.tokenizer, reranker.settings, saved)
    passes, cascade = passes_of(reranker.settings, RATIOS), Cascade(((1, 0.5),), Shape(4))
    grids, told = [], Counter[tuple[str, int, int]]()
    for devices in (("cpu",), ("cpu", "cpu")):
        with opened_reranker(saved, EngineConfig(devices=devices), dtype="float32") as opened:
            assert isinstance(opened, RerankerPool) == (len(devices) > 1)
            with listening(lambda *_: pytest.fail("each query's pairs are nobody's progress")):
                grid = score_grid(
                    opened, inputs, passes, batch_tokens=8192, progress=lambda *news: told.update([news])
                )
            time_cascade(opened, grid, cascade, batch_tokens=8192)
            grids.append(grid)
    assert set(told.values()) == {2}
    assert len(told) == 1 + 6 + 6
    for one, other in zip(*(grid.queries for grid in grids), strict=True):
        assert one.query is other.query
        for way in (*grids[0].exits, cascade):
            # each process chooses its products by a measurement of its own, so last bits may differ
            np.testing.assert_allclose(grids[1].scores(other, way), grids[0].scores(one, way), atol=1e-5)
    for way in (*grids[0].exits, cascade):
        assert grids[0].flops(way).tolist() == grids[1].flops(way).tolist()
        assert (grids[1].seconds(way) > 0).all()


def test_a_choice_for_another_reranker_or_a_damaged_one_is_refused(
    reranker: Reranker, inputs: list[Candidates], tmp_path: Path
) -> None:
    record = tune_on(reranker, inputs, limit=Limit(1.0), ratios=(1,), cascades=False, batch_tokens=8192)
    other = reranker.settings.model_copy(update={"head_layers": (2, 4)})
    with pytest.raises(ConfigError, match="made for a reranker with heads at"):
        way_of(record, other)
    with pytest.raises(ConfigError, match="cannot read"):
        read_choice(tmp_path / "missing.json")
    path = tmp_path / CHOICE_NAME
    for text in ("", "{}", json.dumps({**record.model_dump(mode="json"), "chosen": {"layer": "x"}})):
        path.write_text(text)
        with pytest.raises(ConfigError, match="not what icl-embed rerank tune writes"):
            read_choice(path)


def test_ways_survive_json_and_impossible_ones_are_refused(reranker: Reranker) -> None:
    settings = reranker.settings
    ways = [Shape(4), Shape(3, 2, (1, 2)), Shape(2, 4, (1,)), Cascade(((1, 0.2), (2, 3)), Shape(4, 2, (2,)))]
    for way in ways:
        again = WayRecord.model_validate_json(record_way(way).model_dump_json())
        assert way_of_record(again, settings) == way
    assert len({name_of(way) for way in ways}) == len(ways)
    for wrong in (
        WayRecord(layer=9),
        WayRecord(layer=2, ratio=2, compress_layers=(3,)),
        WayRecord(layer=4, stages=((4, 0.5),)),
        WayRecord(layer=4, stages=((1, 0.0),)),
    ):
        with pytest.raises(ConfigError):
            way_of_record(wrong, settings)


def test_a_way_that_no_usual_pass_shows_gets_one_of_its_own(reranker: Reranker) -> None:
    settings = reranker.settings
    passes = passes_of(settings, (1, 2))
    assert with_pass_of(passes, Shape(3, 2, (1,)), settings) == passes
    for way in (Shape(4, 8, (1, 2)), Cascade(((1, 0.5),), Shape(4, 2, (3,)))):
        more = with_pass_of(passes, way, settings)
        shape = way.shape if isinstance(way, Cascade) else way
        assert shape in exits_of(settings, more)
    assert full_way(settings) == Shape(4)


def test_of_many_heads_cascades_read_a_few_and_always_the_last() -> None:
    heads = tuple(range(8, 43))
    exits = [Shape(layer) for layer in heads]
    cascades = cascades_over(exits, heads)
    assert len(cascades) < 400
    assert {cascade.shape.cutoff_layer for cascade in cascades} >= {42}
