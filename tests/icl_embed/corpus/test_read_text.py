import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_embed.corpus.read import read_table
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import Fetched

ONTOLOGY = b"""format-version: 1.2

[Term]
id: X:1
name: Fever
synonym: "Pyrexia" EXACT []
synonym: "High temperature" EXACT []

[Term]
id: X:2
name: Chills
synonym: "Shivering" EXACT []

[Typedef]
id: part_of
"""
FIELDS = {
    "name": "^name: (.*)",
    "synonyms": '^synonym: "(.*?)" EXACT',
    "kind": r"^\[\w+\]",
    "definition": "^def: (.*)",
}


def read(data, **table):
    table = {"format": "text", **table}
    records, malformed = read_table([Fetched("a.obo", data=data)], Table(**table))
    return [{k: v for k, v in record.items() if not k.startswith("_")} for record in records], malformed


def test_records_and_fields_are_found_by_patterns():
    records, _ = read(ONTOLOGY, records=r"^\[Term\]\n(?:.+\n)*", fields=FIELDS)
    assert records == [
        {"name": "Fever", "synonyms": ["Pyrexia", "High temperature"], "kind": "[Term]", "definition": ""},
        {"name": "Chills", "synonyms": "Shivering", "kind": "[Term]", "definition": ""},
    ]


def test_without_patterns_a_file_is_one_text():
    assert read(b" one\r\ntwo\n") == ([{"text": "one\ntwo"}], 0)
    assert read(b"") == ([], 0)


def test_a_group_that_takes_no_part_is_nothing():
    assert read(b"ab", fields={"a": "a(x)?"})[0] == [{"a": ""}]


def test_records_know_their_place():
    records, _ = read_table([Fetched("f/a.obo", data=ONTOLOGY)], Table(format="text", records="^name:.*"))
    assert [(r["_file"], r["_number"]) for r in records] == [("f/a.obo", 1), ("f/a.obo", 2)]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"records": "(open"}, "records must be a regular"),
        ({"fields": {"x": "*"}}, "the field x must be a regular"),
    ],
)
def test_what_is_no_pattern_is_told(table, told):
    with pytest.raises(DataError, match=told) as caught:
        read(b"text", **table)
    assert "a.obo" in str(caught.value)


def test_a_web_page_is_read_only_where_the_card_expects_html():
    page = b"<!DOCTYPE html><h1>Pages &amp; <i>more</i></h1>"
    fields = {"title": "<h1>(.*)</h1>"}
    assert read(page, fields=fields, html=("title",))[0] == [{"title": "Pages & more"}]
    with pytest.raises(DataError, match="looks like a web page"):
        read(page, fields=fields)


def test_a_file_in_another_encoding_is_a_malformed_record():
    with pytest.raises(DataError, match="record 1: is not utf-8.*encoding = "):
        read(b"caf\xe9")
    assert read(b"caf\xe9", encoding="latin-1")[0] == [{"text": "caf\u00e9"}]
    assert read(b"caf\xe9", max_malformed=1.0) == ([], 1)


@given(st.binary(max_size=80))
def test_any_bytes_give_records_or_one_typed_error(data):
    try:
        records, _ = read(b"text " + data, records=".+", fields={"word": r"\w+"})
    except DataError as error:
        assert "a.obo" in str(error)
        return
    assert all(isinstance(record["word"], str | list) for record in records)
