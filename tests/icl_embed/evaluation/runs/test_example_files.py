"""Example files: ours, a user's, the paper's; never an example without a response."""

import json

import pytest

from icl_embed.errors import DataError
from icl_embed.examples import Example
from icl_embed.few_shot.files import find_example_file, read_example_file

PAIRS = [Example("what is rain", "water that falls"), Example("what is \u2028 fog", "a low cloud")]


def lines(field):
    return "".join(
        json.dumps({"query": one.query, field: one.response}, ensure_ascii=False) + "\n" for one in PAIRS
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", lines("response")),
        ("a.jsonl", lines("pos")),
        ("a.jsonl", "\ufeff" + lines("pos") + "\n"),
        ("a.json", json.dumps([{"query": one.query, "response": one.response} for one in PAIRS])),
        ("a.json", json.dumps({"instruction": "x", "examples": [{"query": one.query, "response": one.response} for one in PAIRS]})),
        ("a.jsonl", "".join(json.dumps({"query": one.query, "pos": [one.response, "more"], "neg": []}) + "\n" for one in PAIRS)),
        ("a.csv", "text,label\n" + "".join(f'"{one.query}",{one.response}\n' for one in PAIRS)),
        ("a.csv", "sent1,sent2\n" + "".join(f'"{one.query}","{one.response}"\n' for one in PAIRS)),
    ],
    ids=["ours", "AIR-Bench", "with a mark and blank lines", "the paper's list", "saved by a search", "training rows", "labels", "pairs"],
)  # fmt: skip
def test_every_format_gives_the_same_examples(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read_example_file(path) == PAIRS


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"query": "q", "response": " "}', "example 1 has no response"),
        ("a.jsonl", '{"query": "q", "pos": []}', "example 1 has no response"),
        (
            "a.jsonl",
            '{"query": "q", "response": "r"}\n{"query": 3, "response": "r"}',
            "example 2 has no query",
        ),
        ("a.jsonl", '"text"', "example 1 has no query"),
        ("a.jsonl", "{", "line 1: not JSON"),
        ("a.json", '{"query": "q"}', "expected a list of examples"),
        ("a.json", "[" * 100_000, "not JSON"),
        ("a.csv", "a,b\n1,2\n", "found the columns a, b"),
        ("a.csv", "", "found the columns none"),
        ("a.txt", "q", "ends in .jsonl, .json, .csv"),
    ],
)
def test_a_file_that_is_not_one_of_examples_says_where(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_example_file(tmp_path / name)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read"):
        read_example_file(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("task", "file"),
    [
        ("SciFact", "SciFact.jsonl"),
        ("SciFact", "MTEB/SciFact.json"),
        ("STS22[de]", "STS22.csv"),
        ("data/cwe-examples", "cwe-examples.json"),
        ("CQADupstackGisRetrieval", "CQADupstackRetrieval.json"),
        ("qa_law_en", "qa/law.jsonl"),
        ("air-bench/24.05/long-doc_arxiv_gpt3_en", "AIR-Bench/long-doc/arxiv-gpt3.jsonl"),
    ],
)
def test_a_folder_has_one_file_per_task(tmp_path, task, file):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[]")
    assert find_example_file(tmp_path, task) == path
    assert find_example_file(tmp_path, "Unheard") is None


def test_a_name_cannot_leave_the_folder(tmp_path):
    (tmp_path / "secret.json").write_text("[]")
    (tmp_path / "inside").mkdir()
    found = find_example_file(tmp_path / "inside", "x/../../secret")
    assert found is None


def test_two_files_of_one_task_and_no_folder_are_errors(tmp_path):
    (tmp_path / "A.json").write_text("[]")
    (tmp_path / "A.csv").write_text("")
    with pytest.raises(DataError, match=r"A\.json and A\.csv; keep one"):
        find_example_file(tmp_path, "A")
    with pytest.raises(DataError, match="there is no file or folder"):
        find_example_file(tmp_path / "nowhere", "A")
