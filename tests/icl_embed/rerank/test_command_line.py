"""The commands as a user types them, on a tiny reranker in a folder and in a store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.command_line import app
from icl_embed.errors import ConfigError, DataError, EvaluationError, ModelError
from icl_embed.evaluation.reranker.tuning import read_choice
from icl_embed.rerank.folder import export_reranker
from icl_embed.rerank.reranker import Reranker
from icl_embed.store import StageKey, Store
from tests.icl_embed.evaluation.reranker.first_stages import write_evaluation
from tests.icl_embed.rerank.conftest import PAIRS

PLAIN = ["--dtype", "float32", "--device", "cpu"]


def run(*words: object, expect: type[Exception] | None = None) -> str:
    result = CliRunner().invoke(app, ["rerank", *map(str, words)], env={"COLUMNS": "200", "TERM": "dumb"})
    if expect is None:
        assert result.exit_code == 0, result.output + repr(result.exception)
    else:
        assert isinstance(result.exception, expect), (result.output, result.exception)
        return str(result.exception)
    return result.output


@pytest.fixture
def folder(reranker: Reranker, tmp_path: Path) -> Path:
    export_reranker(reranker.model, reranker.tokenizer, reranker.settings, tmp_path / "reranker")
    return tmp_path / "reranker"


@pytest.fixture
def store(reranker: Reranker, tmp_path: Path) -> Path:
    """A store with a reranker, and an embedder's and BM25's scores of one data set."""
    root = tmp_path / "store"
    kept = Store(root)

    def saves(out: Path) -> dict[str, object]:
        export_reranker(reranker.model, reranker.tokenizer, reranker.settings, out)
        return {}

    kept.build(StageKey("reranker", 1, {}, {}, "tiny"), saves)
    for split, system, turn in (("test", "trained", 7), ("dev", "trained", 7), ("test", "bm25", 3)):

        def evaluates(
            out: Path, split: str = split, system: str = system, turn: int = turn
        ) -> dict[str, object]:
            for path in write_evaluation(
                tmp_path / f"{split}-{turn}", "one", split=split, turn=turn
            ).iterdir():
                (out / path.name).write_bytes(path.read_bytes())
            return {"model": system}

        inputs = {"dataset": "dataset/d"} | ({"model": "embedder/e"} if system == "trained" else {})
        kept.build(StageKey("score", 1, {"split": split}, inputs, f"{system} on one {split}"), evaluates)
    return root


@pytest.mark.parametrize("command", ["score", "rank", "eval", "tune"])
def test_every_command_says_what_it_takes_and_gives_an_example(command: str) -> None:
    output = run(command, "--help")
    assert "Example" in output
    assert "--model" in output


@pytest.mark.parametrize("ending", ["jsonl", "tsv"])
def test_scores_are_those_of_the_library_and_lines_keep_their_fields(
    reranker: Reranker, folder: Path, tmp_path: Path, ending: str
) -> None:
    source, target = tmp_path / f"pairs.{ending}", tmp_path / "scored.jsonl"
    if ending == "tsv":
        source.write_text("".join(f"{query}\t{passage}\r\n" for query, passage in PAIRS))
    else:
        rows = [{"query": query, "passage": passage, "mine": n} for n, (query, passage) in enumerate(PAIRS)]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("score", "-m", folder, "--input", source, "-o", target, "--layer", 3, "--ratio", 2, *PLAIN)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    expected = reranker.score(PAIRS, cutoff_layer=3, compress_ratio=2)
    np.testing.assert_allclose([row["score"] for row in rows], expected, rtol=1e-4, atol=1e-5)
    assert [(row["query"], row["passage"]) for row in rows] == [(query, passage) for query, passage in PAIRS]
    assert ending == "tsv" or [row["mine"] for row in rows] == list(range(len(PAIRS)))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("pairs.csv", "a,b", "must end in .jsonl or .tsv"),
        ("pairs.tsv", "a\tb\nonly one\n", "line 2: expected a query and a passage"),
        ("pairs.tsv", " \tb\n", "line 1: expected"),
        ("pairs.jsonl", '{"query": "a"}\n', "line 1: expected"),
        ("pairs.jsonl", '{"query": "a", "passage": 3}\n', "line 1: expected"),
        ("pairs.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("pairs.jsonl", "\n\n", "holds no pair"),
    ],
)
def test_input_that_is_not_pairs_is_refused_by_line(
    folder: Path, tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    said = run(
        "score", "-m", folder, "--input", tmp_path / name, "-o", tmp_path / "o.jsonl", expect=DataError
    )
    assert message in said


def test_blank_passages_are_scored_low_and_blank_lines_named_and_left_out(
    folder: Path, tmp_path: Path
) -> None:
    source, target, passages = (tmp_path / name for name in ("pairs.tsv", "out.jsonl", "passages.txt"))
    source.write_text("red cat\t\nred cat\tfish\n")
    run("score", "-m", folder, "--input", source, "-o", target, *PLAIN)
    blank, fish = (json.loads(line)["score"] for line in target.read_text().splitlines())
    assert blank < fish
    passages.write_text("a dog\n\nfish\n \n")
    said = run("rank", "-m", folder, "-q", "red cat", "--passages", passages, "-o", target, *PLAIN)
    assert "left out, as blank: line 2, 4" in said
    [line] = target.read_text().splitlines()
    assert {(one["line"], one["passage"]) for one in json.loads(line)["ranked"]} == {
        (1, "a dog"),
        (3, "fish"),
    }
    passages.write_text("\n\n")
    refused = run("rank", "-m", folder, "-q", "red cat", "--passages", passages, *PLAIN, expect=DataError)
    assert "holds no passage" in refused


def test_wrong_options_are_told_before_any_work(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("a\tb\n")
    base = ["score", "-m", folder, *PLAIN, "--input", tmp_path / "pairs.tsv", "-o"]
    out = tmp_path / "scored.jsonl"
    assert "must end in .jsonl" in run(*base, tmp_path / "scored.csv", expect=ConfigError)
    assert "no score head at layer 9" in run(*base, out, "--layer", 9, expect=ConfigError)
    assert "compress_ratio is 3" in run(*base, out, "--ratio", 3, expect=ConfigError)
    assert "by comma" in run(*base, out, "--compress-layers", "1,x", expect=ConfigError)
    both = [*base, out, "--choice", tmp_path / "choice.json", "--layer", 2]
    assert "already says" in run(*both, expect=ConfigError)
    assert "cannot read" in run(*base, out, "--choice", tmp_path / "choice.json", expect=ConfigError)
    assert "neither a folder nor an artefact" in run(
        "score", "-m", "nowhere", "--input", tmp_path / "pairs.tsv", "-o", out, expect=ModelError
    )
    assert "holds no reranker" in run(
        "score", "--store", tmp_path / "none", "--input", tmp_path / "pairs.tsv", "-o", out, expect=ModelError
    )
    assert not out.exists()


def test_passages_are_ranked_for_each_query(reranker: Reranker, folder: Path, tmp_path: Path) -> None:
    passages = tmp_path / "passages.txt"
    passages.write_text("".join(f"{passage}\n" for _, passage in PAIRS))
    target = tmp_path / "ranked.jsonl"
    words = ["rank", "-m", folder, "-q", "the red cat", "-q", "a bird", "--passages", passages, "--top", 2]
    run(*words, "--output", target, *PLAIN)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["query"] for row in rows] == ["the red cat", "a bird"]
    expected = reranker.rank("the red cat", [passage for _, passage in PAIRS], top_k=2)
    assert [item["line"] for item in rows[0]["ranked"]] == [item.position + 1 for item in expected]
    assert expected[0].passage[:20] in run(*words, *PLAIN)


def test_tuning_finds_the_dev_evaluations_of_the_store_and_evaluation_uses_a_choice(
    store: Path, tmp_path: Path
) -> None:
    choice = tmp_path / "choice.json"
    common = ["--store", store, "--ratios", "1,2", "--top-k", 8, *PLAIN]
    output = run("tune", "--max-loss", 30, "--mean", "--output", choice, *common)
    record = read_choice(choice)
    assert record.datasets == {"one": 6}
    assert "the mean loss is within 30 points" in output
    assert "the upper end of the loss's interval" in run(
        "tune", "--max-loss", 30, "--no-cascades", "--output", tmp_path / "safe.json", *common
    )
    assert all(not one.way.stages for one in read_choice(tmp_path / "safe.json").tried)
    shape, scored = tmp_path / "safe.json", tmp_path / "scored.jsonl"
    (tmp_path / "pairs.tsv").write_text("find fish one\tthe fish is in the time\n")
    run("score", "--input", tmp_path / "pairs.tsv", "-o", scored, "--choice", shape, "--store", store, *PLAIN)
    assert 0 < json.loads(scored.read_text())["probability"] < 1
    output = run("eval", "--choice", choice, "--output", tmp_path / "results", *common)
    scores = json.loads((tmp_path / "results" / "scores.json").read_bytes())
    assert scores["chosen"]["layer"] == record.chosen.layer
    assert "bm25" in scores["datasets"][0]
    assert "full depth" in output
    assert "BM25" in output


def test_two_rerankers_are_compared(store: Path, folder: Path) -> None:
    output = run("eval", "--against", folder, "--store", store, "--top-k", 5, *PLAIN)
    assert "mean over exits" in output
    assert "+0.0 (+0.0 to +0.0)" in output


def test_test_queries_and_missing_evaluations_are_refused(store: Path, folder: Path, tmp_path: Path) -> None:
    evaluations = [one for one in Store(store).artefacts() if one.stage == "score"]
    test = next(one.path for one in evaluations if one.manifest.key["settings"]["split"] == "test")
    said = run(
        "tune",
        "-m",
        folder,
        *PLAIN,
        "--candidates",
        test,
        "--output",
        tmp_path / "c.json",
        expect=EvaluationError,
    )
    assert "test queries" in said
    said = run("tune", "-m", folder, "--store", tmp_path / "none", expect=EvaluationError)
    assert "icl-embed run distill-reranker" in said
    assert "takes some of 1, 2, 4, 8" in run(
        "eval", "-m", folder, *PLAIN, "--candidates", test, "--ratios", "3", expect=ConfigError
    )


def test_scoring_takes_one_device_and_says_what_takes_several(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"query": "sun", "passage": "moon"}\n')
    words = ["score", "-m", folder, "--input", tmp_path / "pairs.jsonl", "--output", tmp_path / "out.jsonl"]
    said = run(*words, "--device", "cpu,cpu", expect=ConfigError)
    assert "expected one device, found 'cpu,cpu'; several serve rerank tune" in said
