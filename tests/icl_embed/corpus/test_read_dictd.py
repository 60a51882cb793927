import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_embed.corpus import read_dictd as module
from icl_embed.corpus.read import read_table
from icl_embed.errors import DataError, SourceError
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import Fetched

ENTRIES = ["A dictionary for tests\n", "Abacus, n.\n   A frame with beads.\n", "Ébène, n.\n   A dark wood.\n"]
NUMBERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def base64(number: int) -> str:
    digits = NUMBERS[number % 64]
    while number := number // 64:
        digits = NUMBERS[number % 64] + digits
    return digits


def dictionary(*words: tuple[str, int]) -> tuple[bytes, bytes]:
    """Index and texts: words with the number of their entry."""
    encoded = [entry.encode() for entry in ENTRIES]
    starts = [sum(map(len, encoded[:number])) for number in range(len(encoded))]
    lines = [f"{word}\t{base64(starts[n])}\t{base64(len(encoded[n]))}\n" for word, n in words]
    return "".join(lines).encode(), b"".join(encoded)


def read(index: bytes, texts: bytes, *, name: str = "d/small.dict.dz", **table):
    packed = gzip.compress(texts, mtime=0) if name.endswith(".dz") else texts
    files = [Fetched("d/small.index", data=index), Fetched(name, data=packed)]
    return read_table(files, Table(files=("*.index",), **table))


@pytest.mark.parametrize("name", ["d/small.dict.dz", "d/small.dict"])
def test_words_come_with_their_entries(name):
    records, malformed = read(*dictionary(("00-database-short", 0), ("Abacus", 1), ("Ébène", 2)), name=name)
    assert [(r["word"], r["text"], r["_number"]) for r in records] == [
        ("Abacus", ENTRIES[1], 2),
        ("Ébène", ENTRIES[2], 3),
    ]
    assert malformed == 0


def test_another_way_to_an_entry_does_not_lead_it():
    records, _ = read(*dictionary(("Abacus", 1), ("beads", 1)))
    assert [(r["word"], r["leads"]) for r in records] == [("Abacus", 1), ("beads", 0)]


def test_patterns_of_the_card_find_fields_in_an_entry():
    records, _ = read(*dictionary(("Abacus", 1)), fields={"definition": r"\n\s+(.*)", "class": r", (\w)\."})
    assert (records[0]["definition"], records[0]["class"]) == ("A frame with beads.", "n")


def test_a_fourth_column_is_the_word_as_it_is_shown():
    index, texts = dictionary(("abacus", 1))
    assert read(index.replace(b"\n", b"\tAbacus\n"), texts)[0][0]["word"] == "Abacus"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"word\tA-B\tC\n", r"'A-B' is not a number of base 64 \(A-Z"),
        (b"word\tA\t\n", "'' is not a number"),
        (b"word\t" + b"/" * 40 + b"\tA\n", "is not a number"),
        ("word\t²\tA\n".encode(), "is not a number"),
        (b"word\t//////\tB\n", "points at bytes .* but the dictionary has 85"),
        (b"word\tA\tBW\n", "points at bytes 0 to 86"),
        (b"word\tA\n", "expected a word, an offset and a length, found 2 columns"),
        (b"\tA\tB\n", "expected a word"),
        (b"\n", "found 1 columns"),
        (b"\xff\tA\tB\n", "is not utf-8: byte 0xff"),
        (b"w\0\tA\tB\n", "NUL"),
        (b"half a letter\t5\tB\n", "its entry is not utf-8"),
    ],
)
def test_a_bad_line_is_told_with_file_line_and_reason(line, told):
    index, texts = dictionary(("Abacus", 1))
    with pytest.raises(DataError, match=told) as caught:
        read(index + line, texts)
    assert "d/small.index, record 2" in str(caught.value)
    records, malformed = read(index + line, texts, max_malformed=0.5)
    assert (len(records), malformed) == (1, 1)


def test_an_index_without_its_texts_is_told_what_is_missing():
    with pytest.raises(DataError, match=r"points into d/small\.dict\.dz or d/small\.dict, which is missing"):
        read(*dictionary(("Abacus", 1)), name="d/other.dict.dz")


def test_an_index_that_repeats_one_entry_for_ever_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_ENTRIES_BYTES", 1000)
    with pytest.raises(DataError, match="hold more than 1000 bytes"):
        read(*dictionary(*[("Abacus", 1)] * 100), max_malformed=0.5)


def test_texts_that_are_too_long_or_damaged_are_refused(monkeypatch):
    index, texts = dictionary(("Abacus", 1))
    files = [Fetched("a.index", data=index), Fetched("a.dict.dz", data=gzip.compress(texts)[:-9])]
    with pytest.raises(SourceError, match=r"a\.dict\.dz is damaged"):
        read_table(files, Table(files=("*.index",)))
    monkeypatch.setattr(module, "MAX_DICTIONARY_BYTES", 10)
    with pytest.raises(DataError, match="longer than 10 bytes"):
        read(index, texts)


pieces = st.sampled_from(
    [b"\t", b"\n", b"A", b"/", b"-", b"word", b"\xff", b"\xc3\x89", b"00database", b"\0"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(pieces, max_size=20).map(b"".join), st.binary(max_size=40))
def test_any_bytes_give_records_or_one_typed_error(index, texts):
    try:
        records, _ = read(b"word\tA\tA\n" + index, texts, name="d/small.dict")
    except (DataError, SourceError) as error:
        assert "small" in str(error)
        return
    assert all(record["word"] for record in records)
