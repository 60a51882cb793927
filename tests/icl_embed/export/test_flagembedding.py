"""FlagEmbedding's files: what we write is what its reader expects, and we read it back."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from icl_embed.cli.export import app
from icl_embed.errors import ConfigError, DataError, PoolError
from icl_embed.examples import Example
from icl_embed.export.flagembedding import write_training_rows
from icl_embed.export.task_prompts import TaskPrompt, read_task_prompt, write_flag_examples
from icl_embed.pool.export import EXPORTS
from tests.icl_embed.corpus.cards import build, write_card

KINDS = {
    "retrieval": "normal",
    "reranking": "normal",
    "pair_classification": "only_1neg",
    "sts": "symmetric_sts",
    "clustering": "symmetric_clustering",
    "classification": "symmetric_class",
}


def row(kind: str, number: int, **changes: object) -> dict[str, object]:
    return {
        "pair_id": f"{kind}/{number}",
        "dataset": f"my-{kind}",
        "kind": kind,
        "instruction": f"Do {kind}",
        "query": f"query {number}\nof é",
        "positive": f"positive {number}",
        "negatives": [f"negative {number}", f"wrong {number}"],
        "label": f"label {number % 2}" if kind in ("clustering", "classification") else None,
        "response": f"positive {number}",
        "positive_score": None,
        "negative_scores": None,
        "weight": 1.0,
        **changes,
    }


def write_rows(folder, rows):
    pq.write_table(pa.Table.from_pylist(rows, schema=EXPORTS["train"]), folder / "train.parquet")
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("kind", "flag_type"), KINDS.items())
def test_every_kind_has_its_type(tmp_path, kind, flag_type):
    (tmp_path / "out").mkdir()
    counts = write_training_rows(write_rows(tmp_path, [row(kind, 0)]), tmp_path / "out")
    assert counts == {f"my-{kind}": 1}
    (path,) = (tmp_path / "out").iterdir()
    assert path.stem.endswith("no_in_batch_neg") == (kind in ("clustering", "classification"))
    expected = {
        "query": "query 0\nof é",
        "pos": ["positive 0"],
        "neg": ["negative 0", "wrong 0"],
        "prompt": f"Do {kind}",
        "type": flag_type,
    }
    labels = {"category": "label 0"} if kind in ("clustering", "classification") else {}
    assert lines(path) == [expected | labels]


@pytest.mark.parametrize(
    ("positive", "negatives", "are_written"),
    [(1.0, [0.5, 0.25], True), (1.0, [0.5, None], False), (None, [0.5, 0.25], False), (1.0, None, False)],
)
def test_scores_are_written_only_where_the_teacher_scored_every_passage(
    tmp_path, positive, negatives, are_written
):
    (tmp_path / "out").mkdir()
    scored = row("retrieval", 0, positive_score=positive, negative_scores=negatives)
    write_training_rows(write_rows(tmp_path, [scored]), tmp_path / "out")
    (line,) = lines(tmp_path / "out" / "my-retrieval.jsonl")
    assert ("pos_scores" in line) == ("neg_scores" in line) == are_written


def test_rows_without_negatives_are_left_out_and_all_of_them_refused(tmp_path):
    (tmp_path / "out").mkdir()
    write_rows(tmp_path, [row("retrieval", 0), row("retrieval", 1, negatives=[])])
    assert write_training_rows(tmp_path, tmp_path / "out") == {"my-retrieval": 1}
    with pytest.raises(PoolError, match="no row with a negative"):
        write_training_rows(write_rows(tmp_path, [row("retrieval", 1, negatives=[])]), tmp_path / "out")
    with pytest.raises(PoolError, match=r"no train\.parquet"):
        write_training_rows(tmp_path / "out", tmp_path / "out")


@pytest.mark.parametrize("kind", ["retrieval", "reranking", "clustering"])
def test_what_we_write_is_read_back_by_the_flagembedding_layout(tmp_path, kind):
    rows = [row(kind, number) for number in range(30)]
    (tmp_path / "data").mkdir()
    write_training_rows(write_rows(tmp_path, rows), tmp_path / "data")
    splits = "[splits]\ntrain = 1.0\ntest = 0.0\n"
    _, found = build(write_card(tmp_path, kind, splits, layout="flagembedding"), tmp_path)
    assert {one["query"] for one in found} == {str(one["query"]) for one in rows}
    if kind == "clustering":
        assert {one["label"] for one in found} == {"label 0", "label 1"}
    else:
        first = next(one for one in found if one["query"] == "query 3\nof é")
        assert (first["positives"], first["negatives"]) == (["positive 3"], ["negative 3", "wrong 3"])


def test_task_files_are_read_in_both_forms_and_written_in_flagembeddings(tmp_path):
    task = TaskPrompt("Find it", (Example("a\nb", "c é"), Example("d", "")))
    write_flag_examples(tmp_path / "flag.json", task.instruction, task.examples)
    assert json.loads((tmp_path / "flag.json").read_text())[0] == {
        "instruct": "Find it",
        "query": "a\nb",
        "response": "c é",
    }
    ours = {
        "instruction": "Find it",
        "examples": [{"query": "a\nb", "response": "c é"}, {"query": "d", "response": ""}],
    }
    (tmp_path / "ours.json").write_text(json.dumps(ours | {"gain": 1}))
    assert read_task_prompt(tmp_path / "flag.json") == read_task_prompt(tmp_path / "ours.json") == task


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read"),
        ("[]", "found 0 instructions"),
        ('[{"instruct": "a", "query": "", "response": ""}, {"instruct": "b"}]', "found 2 instructions"),
        ('[{"instruct": ["a"], "query": 1, "response": ""}]', "example 0"),
        ('{"examples": []}', "is no task"),
        ('{"instruction": "a", "examples": [3]}', "example 0"),
        ("3", "found 0 instructions"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "task.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_task_prompt(tmp_path / "task.json")


def test_the_command_writes_rows_and_examples(tmp_path):
    write_rows(tmp_path, [row("sts", 0)])
    write_flag_examples(tmp_path / "task.json", "Find it", [Example("a", "b")])
    arguments = ["export-data", str(tmp_path), "-o", str(tmp_path / "out"), "--task"]
    result = CliRunner().invoke(app, [*arguments, f"mine={tmp_path / 'task.json'}"], catch_exceptions=False)
    assert result.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "mine-examples.json",
        "my-sts.jsonl",
    ]
    with pytest.raises(ConfigError, match="NAME=FILE"):
        CliRunner().invoke(app, [*arguments, "../x=y"], catch_exceptions=False)
