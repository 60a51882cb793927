import csv
import json

import pytest
from typer.testing import CliRunner

from icl_embed.cli.data import app
from icl_embed.corpus.guess import guess_card
from icl_embed.errors import DataError
from icl_embed.sources.card import load_card
from tests.icl_embed.corpus.cards import build, write_jsonl
from tests.icl_embed.corpus.published import write_examples


def rows_of(path, folder):
    """(card, rows) as the guessed card reads the file."""
    (folder / "card.toml").write_text(guess_card(path).card)
    card = load_card(folder / "card.toml")
    return card, build(card, folder)[1]


N = 150
TEXT = [f"text {number}" for number in range(N)]


@pytest.mark.parametrize(
    ("record", "kind", "expected"),
    [
        (
            {"anchor": "q{n}", "positive": "p{n}", "negative_1": "n{n}", "negative_2": "m{n}"},
            "retrieval",
            {"query": "q7", "positives": ["p7"], "negatives": ["n7", "m7"]},
        ),
        ({"query": "q{n}", "positive": "p{n}", "negative": "n{n}"}, "retrieval", {"negatives": ["n7"]}),
        ({"question": "q{n}", "answer": "p{n}"}, "retrieval", {"positives": ["p7"], "negatives": []}),
        ({"sentence1": "q{n}", "sentence2": "p{n}"}, "retrieval", {"query": "q7", "positives": ["p7"]}),
        ({"sentence1": "q{n}", "sentence2": "p{n}", "score": "0.{n}"}, "sts", {"score": 0.7}),
        ({"sentence1": "q{n}", "sentence2": "p{n}", "label": "{b}"}, "pair_classification", {"score": 1.0}),
        ({"text": "q{n}", "label": "l{b}"}, "classification", {"query": "q7", "label": "l1"}),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
def test_columns_that_people_have_are_known_and_the_card_works(tmp_path, record, kind, expected, ending):
    records = [{k: v.format(n=n, b=n % 2) for k, v in record.items()} for n in range(N)]
    path = tmp_path / f"My Rows.{ending}"
    if ending == "jsonl":
        write_jsonl(path, records)
    elif ending == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*record], delimiter="," if ending == "csv" else "\t")
            writer.writeheader()
            writer.writerows(records)
    card, rows = rows_of(path, tmp_path)
    assert (card.name, card.kind) == ("my-rows", kind)
    assert {one["split"] for one in rows} == {"train", "test"}
    (found,) = [one for one in rows if one["query"] == "q7"]
    assert {key: found[key] for key in expected} == expected


def test_triples_without_a_header_are_ms_marcos(tmp_path):
    (tmp_path / "triples.tsv").write_text("".join(f"q{n}\tp{n}\tn{n}\n" for n in range(20)))
    card, rows = rows_of(tmp_path / "triples.tsv", tmp_path)
    assert card.kind == "retrieval" and len(rows) == 20
    assert {one["split"] for one in rows} == {"train"}  # too few to set some apart
    first = min(rows, key=lambda one: one["query"])
    assert (first["query"], first["positives"], first["negatives"]) == ("q0", ["p0"], ["n0"])


def test_triples_of_ids_need_a_card_that_joins_them(tmp_path):
    (tmp_path / "ids.tsv").write_text("1\t2\t3\n")
    with pytest.raises(DataError, match="holds ids without texts"):
        guess_card(tmp_path / "ids.tsv")


def test_a_beir_folder_is_known(tmp_path):
    folder = tmp_path / "scifact"
    write_jsonl(
        folder / "corpus.jsonl", [{"_id": f"d{n}", "title": "", "text": f"passage {n}"} for n in range(9)]
    )
    write_jsonl(folder / "queries.jsonl", [{"_id": f"q{n}", "text": f"query {n}"} for n in range(9)])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{n}\td{n}\t1\n" for n in range(9))
    )
    card, rows = rows_of(folder, tmp_path)
    assert (card.layout, card.kind, len(rows)) == ("folder", "retrieval", 9)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"foo": "a", "bar": "b"}, r"(?s)has the columns foo, bar, which fit no layout.*FlagEmbedding.*BEIR"),
        (
            {"sentence1": "a", "sentence2": "b", "label": "entailment"},
            "label holds entailment: a pair needs a number",
        ),
        ({"premise": "a", "hypothesis": "b", "label": 2}, "label holds 2: classes of pairs"),
    ],
)
def test_what_fits_nothing_is_told_with_what_was_found(tmp_path, record, message):
    write_jsonl(tmp_path / "a.jsonl", [record])
    with pytest.raises(DataError, match=message):
        guess_card(tmp_path / "a.jsonl")


def test_a_folder_without_data_is_told(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"no data file that is known here \(found: notes.txt\)"):
        guess_card(tmp_path)


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_check_prints_why_the_rows_and_a_card_that_works_when_saved(tmp_path):
    write_jsonl(tmp_path / "pairs.jsonl", [{"anchor": f"q{n}", "positive": f"p{n}"} for n in range(N)])
    output = run("check", tmp_path / "pairs.jsonl", "--downloads", tmp_path / "d")
    assert "pairs of a query and its positive" in output and "has the columns anchor, positive" in output
    assert "train-000000" in output
    (tmp_path / "saved.toml").write_text('name = "' + output.partition('name = "')[2])
    assert "pairs is a valid retrieval card" in run(
        "check", tmp_path / "saved.toml", "--downloads", tmp_path / "d"
    )


def test_check_reads_a_folder_of_flagembeddings_files_as_a_collection(tmp_path):
    write_examples(tmp_path / "example_data")
    output = run("check", tmp_path / "example_data", "--downloads", tmp_path / "d")
    assert "FlagEmbedding's rows" in output
    for name in (
        "AmazonClassification",
        "Banking77Classification",
        "arXiv_title",
        "msmarco",
        "nli",
        "nq",
        "sts",
    ):
        assert f"example_data/{name} is a valid" in output
    assert 'layout = "collection"' in output
    counts = json.loads(CliRunner().invoke(app, ["check", str(tmp_path / "example_data"), "--json"]).stdout)
    assert len(counts) == 8 and counts["example_data/sts"]["rows"]["train"] == 10


def test_a_split_of_a_collection_is_listed_shown_and_fetched(tmp_path):
    write_examples(tmp_path / "rows")
    card = guess_card(tmp_path / "rows").card.replace('name = "rows"', 'name = "ours"')
    (tmp_path / "ours.toml").write_text(card)
    names = {one["name"]: one["kind"] for one in json.loads(run("ls", "--json", "--catalog", tmp_path))}
    assert names["ours"] == names["bge-full-data"] == "collection"
    assert "ours/nli" in run("show", "ours", "--catalog", tmp_path, "--downloads", tmp_path / "d")
    shown = run("show", "ours/nli", "--catalog", tmp_path, "--downloads", tmp_path / "d")
    assert "pair_classification" in shown and "train-000000" in shown
    fetched = run("fetch", "ours/*c*", "--catalog", tmp_path, "--downloads", tmp_path / "d")
    assert "ours/msmarco: 1 files" in fetched and "ours/nli" not in fetched
