"""Strategies compared on development queries, the winner's file, and the commands."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from icl_embed.config import EvaluateConfig, SelectionConfig
from icl_embed.errors import DataError
from icl_embed.evaluation.measurement import Bootstrap, Measurement
from icl_embed.evaluation.strategy_comparison import compare_strategies, gain_over, winner
from icl_embed.evaluation.trials import Workbench, count_queries
from icl_embed.examples import Example
from icl_embed.few_shot.files import ChosenExamples, read_chosen, write_chosen
from icl_embed.model.text_files import read_examples

HOW = Bootstrap(resamples=500)
OPTIONS = {"dev_queries": 16, "budget": 3, "max_sets": 3}
SHOTS = {"shots": 2, "label_experiments": 2, "cluster_sets": 3, "bootstrap_resamples": 200}


def workbench(pool, encoder, task="answers", **options):
    config = EvaluateConfig(**SHOTS, selection=SelectionConfig(**(OPTIONS | options)))
    return Workbench.prepare(pool, task, encoder, config, seed=0)


def measured(values):
    return Measurement("toy", "mean", tuple(f"q{n}" for n in range(len(values))), tuple(values))


def test_the_gain_over_draws_is_the_paired_difference_to_their_mean():
    generator = np.random.default_rng(0)
    draws = [generator.random(40) for _ in range(3)]
    better = np.mean(draws, axis=0) + 0.1
    gain = gain_over(measured(better), [measured(values) for values in draws], HOW)
    assert gain.mean == pytest.approx(0.1)
    assert (gain.low, gain.high) == pytest.approx((0.1, 0.1))  # a constant gain has no spread once paired
    noisy = better + generator.normal(size=40)
    gain = gain_over(measured(noisy), [measured(values) for values in draws], HOW)
    difference = noisy - np.mean(draws, axis=0)
    assert gain.mean == pytest.approx(difference.mean())
    assert gain.high - gain.low == pytest.approx(2 * 1.96 * difference.std() / 40**0.5, rel=0.2)


@pytest.mark.parametrize("task", ["answers", "ranks", "labels", "groups", "scores"])
def test_every_kind_of_task_can_be_compared(pool, encoder, task):
    outcomes = compare_strategies(workbench(pool, encoder, task), draws=2)
    labelled = ["balanced"] if task in ("labels", "groups") else []
    names = [one.strategy for one in outcomes]
    assert names == ["random", "none", "fixed", "diverse", *labelled, "nearest", "search"]
    for one in outcomes:
        assert one.gain.low <= one.gain.mean <= one.gain.high
        assert np.isfinite([one.score, one.search_score]).all()
    best = winner(outcomes)
    assert best.strategy not in ("random", "none", "nearest")
    assert best.search_score == max(one.search_score for one in outcomes[2:] if one.setting.examples)


@pytest.mark.parametrize("method", ["halving", "greedy"])
def test_a_search_beats_what_it_was_drawn_from_on_the_queries_it_sees(pool, encoder, method):
    bench = workbench(pool, encoder, search_by=method, budget=12)
    found = bench.search()
    draws = [
        bench.measure(bench.setting((first, first + 1)), bench.split.search).point
        for first in range(0, 20, 2)
    ]
    again = bench.measure(bench.setting(found.positions), bench.split.search).point
    assert found.score == pytest.approx(again)
    assert found.score > np.mean(draws)
    assert found == workbench(pool, encoder, search_by=method, budget=12).search()


def test_a_search_never_asks_or_shows_a_query_that_is_kept_for_checking(pool, encoder):
    bench = workbench(pool, encoder)
    bench.search()
    checked = set(bench.split.check.queries.values())
    assert checked
    assert not checked & {text for role, _, text in encoder.seen if role != "passage"}


def test_no_test_text_ever_reaches_the_model(pool, encoder):
    from icl_embed.pool.database import DATABASE_NAME, run_user_query

    test = run_user_query(
        pool / DATABASE_NAME,
        "SELECT text FROM evaluation_texts JOIN texts USING (text_id) WHERE split = 'test' AND dataset = 'answers'",
    )
    forbidden = {text for (text,) in test.rows}
    assert len(forbidden) > 20
    compare_strategies(workbench(pool, encoder), draws=2)
    assert not forbidden & {text for _, _, text in encoder.seen}


def test_the_meter_counts_what_went_through_the_model(pool, encoder):
    bench = workbench(pool, encoder)
    setting = bench.setting((0, 1))
    bench.measure(setting, bench.split.search)
    prompts, queries = encoder.prompts, list(bench.split.search.queries.values())
    expected = len(prompts.prefix(setting.instruction, setting.examples).tokens)
    expected += sum(map(len, prompts.query_tails(setting.instruction, queries)))
    expected += sum(map(len, prompts.passages(list(bench.split.search.passages.values()))))
    assert bench.meter.tokens == expected
    bench.measure(setting, bench.split.search)
    assert bench.meter.tokens == expected  # nothing is encoded twice
    assert count_queries(bench.split.search) == len(queries)


def test_chosen_examples_are_read_back(tmp_path):
    chosen = ChosenExamples("find é", (Example("a\nb", 'c"d'), Example("e", "f")), {"seed": 3})
    write_chosen(tmp_path / "deep" / "one.json", chosen)
    assert read_chosen(tmp_path / "deep" / "one.json") == chosen
    assert tuple(read_examples(tmp_path / "deep" / "one.json")) == chosen.examples  # compile-task's reader


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", '{"instruction": "a"}', '{"instruction": "a", "examples": [{"query": "b"}]}'),
        *('{"instruction": 3, "examples": []}', '{"instruction": "a", "examples": [["b", "c"]]}'),
        '{"instruction": "a", "examples": [{"query": "b", "response": null}]}',
    ],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(DataError):
        read_chosen(tmp_path / "file.json")
    if 'instruction": 3' not in content:
        with pytest.raises(DataError):
            read_examples(tmp_path / "file.json")


def test_the_commands_search_save_and_select(pool, tmp_path, tiny_model):
    from icl_embed.cli.examples import app

    def run(*arguments):
        shared = ["--task", "answers", "--pool", str(pool), "--model", str(tiny_model), "--shots", "2"]
        result = CliRunner().invoke(app, [*arguments, *shared, "--dtype", "float32"], env={"COLUMNS": "80"})
        assert result.exit_code == 0, result.output
        return result.output

    path = tmp_path / "winner.json"
    shown = run("search", "--budget", "2", "--dev-queries", "12", "--draws", "2", "--out", str(path))
    for word in ("ndcg_at_10", "none", "fixed", "diverse", "nearest", "search", "gain", "saved"):
        assert word in shown
    assert max(map(len, shown.partition("examples of")[0].splitlines())) <= 80
    saved = json.loads(path.read_text())
    assert len(read_chosen(path).examples) == 2
    assert saved["dev"]["low"] <= saved["dev"]["gain_over_random"] <= saved["dev"]["high"]
    assert saved["model"] and saved["pool"] == pool.name and saved["cost"]["comparison_tokens"] > 0
    first = read_chosen(path).examples[0]
    drawn = run("select", "--strategy", "fixed")
    assert "answers: fixed" in drawn
    near = run("select", "--strategy", "nearest", "--query", first.query)
    assert near.count("response") == 1
