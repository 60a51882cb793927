import gzip
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from icl_embed.corpus.read import read_table
from icl_embed.corpus.read_lines import MAX_LINE_BYTES
from icl_embed.errors import DataError, SourceError
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import Fetched


def read(data: bytes, name: str = "rows.jsonl", **table):
    return read_table([Fetched(name, data=data)], Table(**table))


def fields(records):
    return [{key: value for key, value in record.items() if not key.startswith("_")} for record in records]


def test_lines_become_records_that_know_their_place():
    records, malformed = read(b'{"q": "one"}\n\n{"q": "two"}', name="folder/test.jsonl")
    assert fields(records) == [{"q": "one"}, {"q": "two"}] and malformed == 0
    assert (records[1]["_file"], records[1]["_stem"], records[1]["_folder"], records[1]["_number"]) == (
        "folder/test.jsonl",
        "test",
        "folder",
        3,
    )


def test_gzip_is_opened_by_its_name():
    records, _ = read(gzip.compress(b'{"q": "one"}\n'), name="rows.jsonl.gz")
    assert fields(records) == [{"q": "one"}]


def test_only_newlines_separate_lines():
    odd = "a\u2028b\u0085c\x0bd"
    records, _ = read(json.dumps({"q": odd}, ensure_ascii=False).encode() + b'\r\n{"q": "two"}\n')
    assert fields(records) == [{"q": odd}, {"q": "two"}]
    assert records[1]["_number"] == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"q": "\xff"}', "is not utf-8: byte 0xff at column 8.*encoding = "),
        (b"\xef\xbb\xbf" + b'{"q": "a"}', "byte order mark"),
        (b'{"q": NaN}', "not valid JSON"),
        (b'{"q": Infinity}', "not valid JSON"),
        (b'{"q": "\\ud800"}', "not valid JSON"),
        (b'{"q": "a", "q": "b"}', "'q' appears twice"),
        (b'{"q": "a", "\\u0071": "b"}', "'q' appears twice"),
        (b'{"q": "a\\u0000b"}', "NUL"),
        (b'{"q": "a"', "not valid JSON"),
        (b'{"q": "a"} {"q": "b"}', "not valid JSON"),
        (b'["a"]', "expected an object with named fields, found list"),
        (b'"a"', "expected an object with named fields, found str"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_bad_line_is_told_with_file_line_and_reason(line, reason):
    with pytest.raises(DataError, match=reason) as caught:
        read(b'{"q": "fine"}\n' + line + b"\n")
    assert "rows.jsonl, record 2" in str(caught.value)


def test_an_escaped_backslash_before_u0000_is_no_nul_character():
    records, _ = read(b'{"pattern": "[^\\\\u0000]"}\n')
    assert fields(records) == [{"pattern": "[^\\u0000]"}]
    with pytest.raises(DataError, match="NUL"):
        read(b'{"pattern": "\\\\\\u0000"}\n')


def test_a_line_longer_than_the_cap_is_refused():
    with pytest.raises(DataError, match="longer than"):
        read(b'{"q": "' + b"x" * MAX_LINE_BYTES + b'"}\n')


def test_malformed_lines_are_counted_up_to_the_declared_share():
    good, bad = b'{"q": "fine"}\n' * 97, b"broken\n" * 3
    records, malformed = read(good + bad, max_malformed=0.05)
    assert (len(records), malformed) == (97, 3)
    with pytest.raises(DataError, match=r"3 of 100 records are malformed.*the first: rows\.jsonl, record 98"):
        read(good + bad, max_malformed=0.02)


def test_declared_fields_are_found_by_dotted_paths():
    data = b'{"a": {"b": ["x", "y"]}, "c": [{"d": 1}, {"d": 2}]}\n{"c": []}\n'
    records, _ = read(data, fields={"first": "a.b.0", "all": "a.b", "ds": "c.*.d"})
    assert fields(records) == [{"first": "x", "all": ["x", "y"], "ds": [1, 2]}, {"ds": []}]


def test_a_document_gives_the_records_at_its_path():
    data = json.dumps({"data": [{"rows": [{"q": "a"}, {"q": "b"}]}, {"rows": [{"q": "c"}]}]}).encode()
    records, _ = read(data, name="all.json", records="data.*.rows.*")
    assert [record["q"] for record in records] == ["a", "b", "c"]
    records, _ = read(b'{"one": "x", "two": "y"}', name="all.json", fields={"k": "key", "v": "value"})
    assert fields(records) == [{"k": "one", "v": "x"}, {"k": "two", "v": "y"}]


def test_a_path_that_does_not_exist_is_told_with_what_is_there():
    with pytest.raises(DataError, match="'data.rows' fails at 'rows'; what is there: lines, meta"):
        read(b'{"data": {"lines": [], "meta": 1}}', name="all.json", records="data.rows")


PIECES = [b'{"q": "a"}', b'{"q": 1, "q": 2}', b'"q"', b'"\\ud800"', b"{", b"}", b"[", b"]", b":", b","]
PIECES += [b"NaN", b"1e999", b"9" * 5000, b"-0", b"true", b"null"]
PIECES += [b"\x00", b"\xef\xbb\xbf", b"\xff", "\u2028".encode(), b"\r", b"\n"]
pieces = st.sampled_from(PIECES)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.lists(pieces, max_size=12).map(b"".join), st.binary(max_size=200)))
@example(b'{"q": ' + b"9" * 5000 + b"}\n")
@example(b'{"q": ' + b"[" * 5000 + b"]" * 5000 + b', "q": 1}\n')
@example(b'{"q": "a", "\\u0071": ' + b"9" * 5000 + b"}")
@example(b"\xfd7zXZ\x00")  # begins as xz does, and is cut: the file is damaged, not its records
def test_any_bytes_give_records_or_one_typed_error(data):
    try:
        records, _ = read(data)
    except (DataError, SourceError) as error:
        assert "rows.jsonl" in str(error)
        return
    for record in records:
        json.dumps(record, allow_nan=False)
