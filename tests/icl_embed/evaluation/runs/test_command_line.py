"""``icl-embed eval run`` and ``eval cache`` as a user types them, with a real tiny model."""

import json

import pytest
import typer
from typer.testing import CliRunner

from icl_embed.cli.evaluation import register
from icl_embed.cli.evaluation_options import parse_config, parse_instructions, parse_settings
from icl_embed.cli.options import parse_pair
from icl_embed.errors import ConfigError
from tests.icl_embed.evaluation.runs.local_store import add_dataset

app = typer.Typer()
register(app)


@pytest.fixture
def invoke(store, tiny_model, tmp_path):
    def run(*arguments, code=0, model=tiny_model):
        budgets = ["--tokens", "64,64,256", "--device", "cpu"]
        asked = ["run", "--model", str(model), "--store", str(store.root), *budgets, *arguments]
        done = CliRunner().invoke(app, asked, env={"COLUMNS": "80"})
        if isinstance(done.exception, Exception) and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.output

    return run


def test_a_run_prints_a_table_and_writes_its_result(store, invoke, tmp_path):
    tasks = [add_dataset(store, "facts"), add_dataset(store, "pairs", "sts", base=3000)]
    out = tmp_path / "out.json"
    wanted = ["--tasks", ",".join(tasks), "--shots", "0,2", "--seeds", "0,1", "--json", str(out)]
    shown = invoke(*wanted)
    for part in ("data/facts", "ndcg_at_10", "zero-shot", "2-shot", "average of 2"):
        assert part in shown
    assert max(map(len, shown.splitlines())) <= 80
    result = json.loads(out.read_text())
    assert result["measured_now"]["cells"] == 6
    assert invoke(*wanted) == shown
    assert json.loads(out.read_text())["measured_now"] == {
        "cells": 0,
        "encoded_queries": 0,
        "encoded_passages": 0,
        "seconds": 0,
    }


def test_a_missing_task_is_listed_and_the_exit_code_says_so(store, invoke, tmp_path):
    task = add_dataset(store, "facts")
    wanted = ["--tasks", f"{task},data/fact,SciFact", "--mirror", str(tmp_path), "--shots", "0"]
    shown = invoke(*wanted, "--json", str(tmp_path / "out.json"), code=1)
    assert "missing" in shown
    assert [one["task"] for one in json.loads((tmp_path / "out.json").read_text())["missing"]] == [
        "data/fact",
        "SciFact",
    ]
    invoke(*wanted, "--allow-missing")


def test_bm25_and_absent_settings_are_in_the_table(store, invoke):
    tasks = [add_dataset(store, "facts"), add_dataset(store, "pairs", "sts", base=3000)]
    shown = invoke("--tasks", ",".join(tasks), model="bm25")
    assert "absent" in shown
    assert "BM25 ranks passages" in shown


def test_the_cache_is_shown_and_cleared(store, invoke):
    invoke("--tasks", add_dataset(store, "facts"), "--shots", "0")

    def cache(*arguments):
        return CliRunner().invoke(app, ["cache", "--store", str(store.root), *arguments]).output

    assert "in 2 shelves" in cache()
    assert "freed 0 B" in cache("--max-gb", "1")
    assert "0 B in 0 shelves" in cache("--clear")


@pytest.mark.parametrize("text", ["-1", "1.5", "a", "", "1,,2", "²"])
def test_shots_and_seeds_are_whole_numbers_from_zero_on(text):
    with pytest.raises(ConfigError, match="--shots takes whole numbers from 0 on"):
        parse_settings(text, "random", "0")
    with pytest.raises(ConfigError, match="--seeds takes whole numbers"):
        parse_settings("0", "random", text)


def test_settings_are_every_combination_and_zero_shot_once():
    names = [one.name for one in parse_settings("0,2", "random, nearest", "0,1")]
    assert names == ["zero-shot", "2-shot nearest", "2-shot nearest seed 1", "2-shot", "2-shot seed 1"]
    with pytest.raises(ConfigError, match="--selection takes random"):
        parse_settings("1", "best", "0")


def test_budgets_pairs_and_instructions_are_checked():
    assert parse_config("10,20,30").prompt.passage_tokens == 20
    for text in ("10,20", "10,20,5", "0,1,1", "a,b,c"):
        with pytest.raises(ConfigError, match="--tokens"):
            parse_config(text)
    assert parse_pair("A = b") == ("A", "b")
    with pytest.raises(ConfigError, match="expected NAME=VALUE"):
        parse_pair("A=")
    texts = ["SciFact=find a=b", "find all where x=1"]
    assert parse_instructions(texts) == {"SciFact": "find a=b", "": "find all where x=1"}
    with pytest.raises(ConfigError, match="--instruction needs a text"):
        parse_instructions(["SciFact="])
