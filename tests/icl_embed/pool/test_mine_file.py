"""``icl-embed mine``: the rows of a file, by words and by a tiny model."""

import json

import pytest
from typer.testing import CliRunner

from flows.command_line import app
from icl_embed.errors import ConfigError, DataError, IclEmbedError

TOPICS = "amber birch cedar delta ember fjord grove heath".split()


def call(*arguments):
    result = CliRunner().invoke(app, ["mine", *map(str, arguments)])
    if isinstance(result.exception, IclEmbedError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def rows():
    return [
        {"query": f"{topic} at number{n}", "pos": [f"{topic} town{n} by the sea"], "id": f"{topic}{n}"}
        for topic in TOPICS
        for n in range(5)
    ]


def write(path, items):
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    return path


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


BM25 = ("-m", "bm25", "--range", 0, 100, "--max-positive-ratio", 1000)


def test_rows_keep_their_order_and_whatever_else_they_have(tmp_path):
    source = write(tmp_path / "rows.jsonl", rows())
    printed = call(*BM25, "--input", source, "-o", tmp_path / "out.jsonl", "--negatives", 3, "--top")
    found = read(tmp_path / "out.jsonl")
    assert [{name: row[name] for name in ("query", "pos", "id")} for row in found] == rows()
    for row in found:
        assert len(row["neg"]) == len(set(row["neg"])) == 3
        assert row["pos"][0] not in row["neg"]
        topic = row["query"].split()[0]
        assert all(topic in text for text in row["neg"]), "the hardest share the topic"
    assert "40 rows, 40 passages" in printed
    assert not (tmp_path / ".out.jsonl.work").exists(), "what a crash would need is gone"


def test_negatives_are_drawn_from_the_range_by_the_seed(tmp_path):
    source = write(tmp_path / "rows.jsonl", rows())
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        call(*BM25, "--input", source, "-o", tmp_path / f"{name}.jsonl", "--negatives", 2, "--seed", seed)
    found = {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in "abc"}
    assert found["a"] == found["b"] != found["c"]


def test_columns_of_sentence_transformers_and_given_negatives(tmp_path):
    items = [
        {
            "anchor": row["query"],
            "positive": row["pos"][0],
            "negative_1": f"given {n}",
            "negative_2": f"more {n}",
            "neg_scores": [0.5],
        }
        for n, row in enumerate(rows())
    ]
    source = write(tmp_path / "rows.jsonl", items)
    call(*BM25, "--input", source, "-o", tmp_path / "kept.jsonl", "--negatives", 3, "--keep-given")
    for n, row in enumerate(read(tmp_path / "kept.jsonl")):
        assert row["neg"][:2] == [f"given {n}", f"more {n}"] and len(row["neg"]) == 3
        assert sorted(row) == ["neg", "pos", "query"], "scores of other negatives would mislead"
    call(*BM25, "--input", source, "-o", tmp_path / "new.jsonl", "--negatives", 3, "--top")
    topics = [(row["query"].split()[0], row["neg"]) for row in read(tmp_path / "new.jsonl")]
    assert all(topic in text for topic, texts in topics for text in texts), "mined ones take their place"


def test_candidates_come_from_the_corpus_and_never_from_other_positives_of_the_query(tmp_path):
    items = [
        {"query": "red boat", "pos": ["the red boat won"]},
        {"query": "red boat", "pos": ["a red boat is fast", "my red boat"], "neg": ["red hat and boat"]},
    ]
    source = write(tmp_path / "rows.jsonl", items)
    corpus = write(
        tmp_path / "corpus.jsonl", [{"text": "red boat harbour"}, "red carpet", {"text": "blue boat"}]
    )
    call(*BM25, "--input", source, "--corpus", corpus, "-o", tmp_path / "out.jsonl", "--negatives", 9)
    for row in read(tmp_path / "out.jsonl"):
        assert set(row["neg"]) == {"red boat harbour", "red carpet", "blue boat"}


def test_what_scores_near_the_positive_is_left_out(tmp_path):
    items = [{"query": "red boat", "pos": ["the red boat is fast here"]}, {"query": "x", "pos": ["far away"]}]
    source = write(tmp_path / "rows.jsonl", items)
    (tmp_path / "corpus.txt").write_text("boat boat red red\na boat in the harbour of a town\n")
    base = (
        "-m",
        "bm25",
        "--range",
        0,
        9,
        "--input",
        source,
        "--corpus",
        tmp_path / "corpus.txt",
        "--negatives",
        1,
    )
    call(*base, "-o", tmp_path / "with.jsonl", "--top", "--max-positive-ratio", 0.95)
    call(*base, "-o", tmp_path / "without.jsonl", "--top", "--max-positive-ratio", 1000)
    assert read(tmp_path / "with.jsonl")[0]["neg"] == ["a boat in the harbour of a town"]
    assert read(tmp_path / "without.jsonl")[0]["neg"] == ["boat boat red red"]


def test_a_model_of_ours_mines_and_asks_for_its_instruction(tmp_path, tiny_model):
    source = write(tmp_path / "rows.jsonl", rows())
    ours = (
        "-m",
        tiny_model,
        "--input",
        source,
        "-o",
        tmp_path / "out.jsonl",
        "--range",
        0,
        40,
        "--device",
        "cpu",
    )
    with pytest.raises(ConfigError, match="give --instruction"):
        call(*ours)
    call(*ours, "-i", "Find the place", "--max-positive-ratio", 1000, "--negatives", 4)
    assert all(len(row["neg"]) == 4 for row in read(tmp_path / "out.jsonl"))


GOOD = '{"query": "q", "pos": ["p"]}'


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"pos": ["p"]}', "expected query or anchor"),
        ('{"query": "q"}', "expected pos or positive"),
        ('{"query": "q", "pos": []}', "pos is empty"),
        ('{"query": "q", "pos": [" "]}', "holds a blank text"),
        ('{"query": " ", "pos": ["p"]}', "query should be a text that is not blank"),
        ('{"query": "q", "pos": [3]}', "pos should be a text or a list of texts"),
        ('{"query": "q", "pos": ["p"], "neg": {"a": 1}}', "neg should be a text or a list of texts"),
        ('["q", "p"]', "expected {"),
        ("{", "not JSON"),
        (b'{"query": "\xff", "pos": ["p"]}', "not UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, complaint):
    data = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "rows.jsonl").write_bytes(f"{GOOD}\n".encode() + data + b"\n")
    with pytest.raises(DataError, match=f"rows.jsonl, line 2: .*{complaint}"):
        call(*BM25, "--input", tmp_path / "rows.jsonl", "-o", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_options_that_cannot_be_are_told_before_the_work(tmp_path):
    source = write(tmp_path / "rows.jsonl", rows())
    with pytest.raises(ConfigError, match="must end in .jsonl"):
        call(*BM25, "--input", source, "-o", tmp_path / "out.txt")
    with pytest.raises(ConfigError, match="--range takes"):
        call("-m", "bm25", "--range", 5, 5, "--input", source, "-o", tmp_path / "out.jsonl")
    with pytest.raises(ConfigError, match="--max-positive-ratio must be above 0"):
        call("-m", "bm25", "--max-positive-ratio", 0, "--input", source, "-o", tmp_path / "out.jsonl")
    with pytest.raises(DataError, match="cannot read"):
        call(*BM25, "--input", tmp_path / "none.jsonl", "-o", tmp_path / "out.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="has no rows"):
        call(*BM25, "--input", tmp_path / "empty.jsonl", "-o", tmp_path / "out.jsonl")
