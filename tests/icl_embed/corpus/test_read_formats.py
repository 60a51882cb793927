import bz2
import gzip
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icl_embed.corpus.read import read_table
from icl_embed.errors import DataError, SourceError
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import Fetched


def read(name: str, data: bytes | str, **table):
    raw = data.encode() if isinstance(data, str) else data
    records, _ = read_table([Fetched(name, data=raw)], Table(**table))
    return [{key: value for key, value in record.items() if not key.startswith("_")} for record in records]


def test_csv_values_may_hold_commas_quotes_and_newlines():
    assert read("a.csv", 'q,a\n"one, two","say ""hi""\nthere"\nx,y\n') == [
        {"q": "one, two", "a": 'say "hi"\nthere'},
        {"q": "x", "a": "y"},
    ]


def test_csv_takes_another_delimiter_and_declared_columns():
    assert read("a.csv", "1;2\n", delimiter=";", columns=["x", "y"]) == [{"x": "1", "y": "2"}]
    assert read("a.csv", "a,b\n1,2\n", fields={"only": "b"}) == [{"only": "2"}]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"q,a\nonly one\n", "record 1: has 1 values, expected 2"),
        (b'q,a\n"open,b\n', "not valid CSV"),
        (b"q,q\n1,2\n", "not unique"),
        (b"q,a\n\xff,b\n", "is not utf-8: byte 0xff at column 1"),
        (b"\xef\xbb\xbfq,a\n1,2\n", "byte order mark"),
        (b"q,a\n1,\x00\n", "NUL"),
    ],
)
def test_bad_csv_is_told_with_its_place(data, reason):
    with pytest.raises(DataError, match=reason) as caught:
        read("a.csv", data)
    assert "a.csv" in str(caught.value)


def test_a_byte_order_mark_can_be_declared():
    assert read("a.csv", b"\xef\xbb\xbfq,a\n1,2\n", encoding="utf-8-sig") == [{"q": "1", "a": "2"}]


def test_tsv_has_no_quoting_and_skips_comments():
    assert read("a.tsv", '# note\n"a\tb"\n', columns=["x", "y"], comment="#") == [{"x": '"a', "y": 'b"'}]


QUESTION = "请问北京的苹果价格是多少？"
AS_CSV, AS_JSONL = f'q,n\r\n"{QUESTION}",1\r\n', f'{{"q": "{QUESTION}", "n": "1"}}\n\n'
AS_XML = f'<?xml version="1.0" encoding="gb18030"?><r><i><q>{QUESTION}</q><n>1</n></i></r>'
FIELDS = {"q": "q", "n": "n"}


@pytest.mark.parametrize(
    "encoding", ["utf-16", "UTF-16LE", "utf-16-be", "utf-32", "gb18030", "gbk", "utf-8-sig"]
)
@pytest.mark.parametrize("packed", [False, True])
def test_files_in_other_encodings_are_read_in_every_format(encoding, packed):
    def stored(text):
        return gzip.compress(text.encode(encoding)) if packed else text.encode(encoding)

    asked, expected = {"encoding": encoding}, {"q": QUESTION, "n": "1"}
    assert read("a.csv", stored(AS_CSV), **asked) == [expected]
    assert read("a.tsv", stored(AS_CSV.replace(",", "\t").replace('"', "")), **asked) == [expected]
    assert read("a.jsonl", stored(AS_JSONL), **asked) == [expected]
    assert read("a.json", stored(f"[{AS_JSONL}]"), **asked) == [expected]
    assert read("a.yaml", stored(f"- {AS_JSONL}"), **asked) == [expected]
    assert read("a.txt", stored(f"\n{QUESTION}\n"), **asked) == [{"text": QUESTION, "line": 1}]
    assert read("a.xml", stored(AS_XML), records="i", fields=FIELDS, **asked) == [expected]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.tsv", "a.txt", "a.yaml"])
@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("utf-16", '"utf-16"'),
        ("utf-16-le", '"utf-16-le"'),
        ("utf-16-be", '"utf-16-be"'),
        ("gb18030", '"gb18030"'),
        ("cp1252", '"cp1252"'),
    ],
)
def test_a_file_in_another_encoding_is_told_with_the_setting_that_mends_it(name, encoding, told):
    text = (
        "[1] café, plain words in a line that is long enough"
        if encoding == "cp1252"
        else f'[1] "{QUESTION}"' * 3
    )
    if encoding.startswith("utf-16"):
        text = "plain words " * 5 + text
    with pytest.raises(DataError, match=rf"^{name}.*encoding = .*{told}"):
        read(name, text.encode(encoding))


def test_duplicate_keys_are_found_in_other_encodings_too():
    with pytest.raises(DataError, match="appears twice"):
        read("a.jsonl", '{"键": 1, "键": 2}'.encode("gb18030"), encoding="gb18030")


@pytest.mark.parametrize("encoding", ["utf-17", "hex", "cp037", "no such\0thing"])
def test_what_is_no_encoding_of_lines_is_refused_by_the_card(encoding):
    with pytest.raises(ValueError, match=r"usual ones are .*gb18030"):
        Table(encoding=encoding)


def test_a_csv_value_may_be_as_long_as_a_json_line():
    long = "word " * 60_000
    assert read("a.csv", f"q,a\n1,{long}\n") == [{"q": "1", "a": long}]
    with pytest.raises(DataError, match="field larger"):
        read("a.csv", 'q\n"' + ("line" * 250_000 + "\n") * 20 + '"\n')


def zstd(data):
    return pa.compress(data, codec="zstd", asbytes=True)


def lz4(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "lz4") as packed:
        packed.write(data)
    return sink.getvalue().to_pybytes()


SKIPPED = b"\x50\x2a\x4d\x18\x04\0\0\0note"  # parallel zstd writers begin with such a frame
PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd, ".lz4": lz4}


@pytest.mark.parametrize("ending", PACKERS)
def test_compressed_files_are_read_whatever_they_are_called(ending):
    pack, lines = PACKERS[ending], [f'{{"q": "{number}"}}\n'.encode() for number in range(2000)]
    data = pack(b"".join(lines[:900])) + pack(
        b"".join(lines[900:])
    )  # two streams, as parallel writers leave them
    expected = [{"q": str(number)} for number in range(2000)]
    for name in (f"rows.jsonl{ending}", "rows.jsonl", "rows.jsonl.gz"):
        assert read(name, data) == expected
    assert read_table([Fetched(f"a/test.jsonl{ending}", data=data)], Table())[0][0]["_stem"] == "test"
    with pytest.raises(SourceError, match=f"rows.jsonl{ending} is damaged"):
        read(f"rows.jsonl{ending}", pack(b"".join(lines))[:-9])


def test_a_frame_to_be_skipped_is_skipped():
    assert read("rows.jsonl", SKIPPED + zstd(b'{"q": "1"}\n')) == [{"q": "1"}]


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"PK\x03\x04\x14\0\0\0", "a zip archive"),
        (b"PAR1\x15\x04\x15\x10", "a Parquet file"),
        (b"\xff\xff\xff\xff\x80\x02\0\0", "an Arrow stream"),
        (b"SQLite format 3\0\x10\0", "a SQLite database"),
        (b"\x80\x04\x95\x10\0\0", "a Python pickle"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "a PDF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>sign in</html>", "a web page"),
        (bytes(range(1, 32)) * 4, "binary data of a kind that is not known here .its first bytes: 01 02"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_no_text_is_named(data, seen, packed):
    data = gzip.compress(data) if packed else data
    for name in ("a.jsonl", "a.csv", "a.txt"):
        with pytest.raises(DataError, match=f"^{name} is read as .*looks like {seen}"):
            read(name, data)


def test_a_file_without_an_ending_is_told_with_what_it_looks_like():
    with pytest.raises(DataError, match=r"cannot tell the format.*looks like a Parquet file.; set format"):
        read("rows", b"PAR1\x15\x04\x15\x10")
    with pytest.raises(DataError, match="read as parquet, but looks like a zip"):
        read("rows.parquet", b"PK\x03\x04\x14\0\0\0")


def test_a_table_may_have_a_column_that_is_called_like_a_kind_of_file():
    assert read("a.csv", "ORCID,GGUF\n1,2\n") == [{"ORCID": "1", "GGUF": "2"}]


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\nq 1\td1\t2\n",
        "q 1\t0\td1\t2\n",  # TREC
        "q 1\td1\t2\n",
    ],
)
def test_judgements_are_read_as_beir_and_trec_write_them(text):
    (found,) = read("qrels/test.tsv", text, format="qrels")
    assert [found[name] for name in ("query-id", "corpus-id", "score")] == ["q 1", "d1", "2"]


def test_judgements_may_be_apart_by_spaces():
    found = read("qrels/test.tsv", "1000 Q0 d7 1\n1001  Q0  d8  0\n", format="qrels")
    assert [(one["query-id"], one["corpus-id"], one["score"]) for one in found] == [
        ("1000", "d7", "1"),
        ("1001", "d8", "0"),
    ]


def test_a_table_without_a_header_is_told_how_to_name_its_columns():
    with pytest.raises(DataError, match=r"if the first line is no header.*columns = "):
        read("a.tsv", "1000\t0\t0\t1\n1001\t0\t1\t1\n")


def test_other_encodings_are_declared():
    assert read("a.txt", b"caf\xe9\n", encoding="cp1252") == [{"text": "café", "line": 1}]
    with pytest.raises(DataError, match="0xe9 at column 4"):
        read("a.txt", b"caf\xe9\n")


def test_a_matrix_gives_its_upper_triangle():
    cells = read("m.txt", "1 0.5 0.25\n0 1 0.75\n0 0 1\n", format="matrix")
    assert [(c["row"], c["column"], c["value"]) for c in cells] == [(1, 2, 0.5), (1, 3, 0.25), (2, 3, 0.75)]
    with pytest.raises(DataError, match="square"):
        read("m.txt", "1 2\n3\n", format="matrix")
    with pytest.raises(DataError, match="cell 2 is not a number: 'nan'"):
        read("m.txt", "1 nan\n3 4\n", format="matrix")


def test_parquet_rows_are_records(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"q": ["a", "b"], "n": [[1], [2, 3]]}), path)
    assert read("a.parquet", path.read_bytes()) == [{"q": "a", "n": [1]}, {"q": "b", "n": [2, 3]}]
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read("a.parquet", path.read_bytes()[:50])


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_a_saved_hugging_face_data_set_is_read_from_its_arrow_files(tmp_path: Path, new):
    table = pa.table({"q": ["a", "b"]})
    with new(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    data = (tmp_path / "a.arrow").read_bytes()
    assert read("train/a.arrow", data) == [{"q": "a"}, {"q": "b"}]
    with pytest.raises(DataError, match="cannot be read as Arrow"):
        read("a.arrow", data[: len(data) // 3])


XML = """<list xmlns="urn:x" xmlns:y="urn:y">
  <chapter id="I"><title>One</title>
    <item y:n="1"><name>A</name><alt>a</alt><alt>aa</alt>
      <item n="2"><name>B
          b</name><see kind="x">X</see><see kind="y">Y</see></item>
    </item>
  </chapter>
</list>"""


def test_xml_paths_look_down_up_and_outwards():
    found = read(
        "a.xml",
        XML,
        records="item",
        fields={
            "n": "@n",
            "name": "name",
            "alt": "alt",
            "parent": "../name",
            "chapter": "ancestor::chapter/title",
            "id": "ancestor::chapter/@id",
            "x": "see[@kind='x']",
            "kinds": "see/@kind",
            "inside": "item/name",
        },
    )
    inner, outer = found
    assert inner == {
        "n": "2",
        "name": "B b",
        "alt": None,
        "parent": "A",
        "chapter": "One",
        "id": "I",
        "x": "X",
        "kinds": ["x", "y"],
        "inside": None,
    }
    assert (outer["n"], outer["name"], outer["alt"], outer["parent"]) == ("1", "A", ["a", "aa"], None)
    assert outer["inside"] == "B b"


def test_xml_records_can_be_a_path():
    data = "<a><b><c>1</c></b><d><c>2</c></d></a>"
    assert read("a.xml", data, records="d/c", fields={"v": "."}) == [{"v": "2"}]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("<a><b></a>", "not valid XML"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', "forbidden XML construction"),
        ("<a>" * 300 + "</a>" * 300, "nested deeper"),
        ("<a><c/></a>", "no element b"),
    ],
)
def test_hostile_xml_is_a_data_error(data, reason):
    with pytest.raises(DataError, match=reason):
        read("a.xml", data, records="b", fields={"v": "."})


def test_an_xml_bomb_is_refused():
    bomb = '<!DOCTYPE a [<!ENTITY a "xxxxxxxxxx"><!ENTITY b "&a;&a;&a;&a;">]><b>&b;</b>'
    with pytest.raises(DataError, match="forbidden"):
        read("a.xml", bomb, records="b", fields={"v": "."})


def test_yaml_scalars_are_the_text_that_was_written():
    assert read("a.yaml", "no: [yes, 007, 1e3, 2020-01-01]\n") == [
        {"key": "no", "value": ["yes", "007", "1e3", "2020-01-01"]}
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("a: &x [1]\nb: *x\n", "line 2: YAML aliases are refused"),
        ("a: 1\na: 2\n", "'a' appears twice"),
        ("a: [1\n", "not valid YAML"),
        ("[" * 500 + "]" * 500, "nested deeper"),
        (b"a: \xff\n", "is not utf-8"),
    ],
)
def test_hostile_yaml_is_a_data_error(data, reason):
    with pytest.raises(DataError, match=reason):
        read("a.yaml", data)


def test_yaml_objects_are_not_made():
    (record,) = read("a.yaml", "a: !!python/object/apply:os.system [echo]\n")
    assert record == {"key": "a", "value": ["echo"]}


PYTHON = '''
import nowhere_to_be_found
raise SystemExit("this module must never run")

def area(radius):
    """The area of
    a circle.

    More.
    """
    # squared
    return 3 * radius**2

class Shape:
    def side(self): "One side."; return 1

    def undocumented(self):
        return 2
'''


def test_python_is_parsed_not_run():
    area, side = read("pkg/shapes.py", PYTHON)
    assert (area["name"], area["owner"], area["module"]) == ("area", "", "pkg.shapes")
    assert area["summary"] == "The area of a circle."
    assert area["code"] == "def area(radius):\n    # squared\n    return 3 * radius**2"
    assert (side["owner"], side["summary"], side["code"]) == (
        "Shape",
        "One side.",
        "def side(self):\n    return 1",
    )


@pytest.mark.parametrize("data", [b"def f(:", b"\x00", "(" * 5000, b"# coding: utf-8\nx = '\xff'"])
def test_python_that_does_not_parse_is_a_malformed_record(data):
    with pytest.raises(DataError, match="is not Python that this version parses"):
        read("a.py", data)
    assert read("a.py", data, max_malformed=1.0) == []


def test_an_unknown_ending_asks_for_a_format():
    with pytest.raises(DataError, match="set format = one of jsonl"):
        read("a.dat", "x")


def test_no_fitting_file_is_told_with_what_there_is():
    with pytest.raises(DataError, match=r"no file fits b\.jsonl; the source has: a\.jsonl"):
        read("a.jsonl", "{}", files=["b.jsonl"])
