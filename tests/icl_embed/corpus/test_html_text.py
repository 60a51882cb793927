import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_embed.corpus.html_text import MAX_CHARACTERS, html_text
from icl_embed.corpus.read import read_table
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import Fetched


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (
            "<p>Adds <code>tags</code> to\n  a certificate.</p><p>Tags are labels.</p>",
            "Adds tags to a certificate.\nTags are labels.",
        ),
        ("one<br/>two<br>three", "one\ntwo\nthree"),
        ("<ul><li>a &lt; b</li><li>R&amp;D&nbsp;costs</li></ul>", "a < b\nR&D costs"),
        ("seen<script>var a = '<p>not seen</p>'</script><style>p {}</style>, too", "seen, too"),
        ("2 < 3 and 5 > 4", "2 < 3 and 5 > 4"),
        ("no  tags\n\n at all ", "no tags\nat all"),
        ("</script>after an end without a start", "after an end without a start"),
        ("<p>never <b>closed", "never closed"),
        ("<!-- a note -->text", "text"),
        ("", ""),
    ],
)
def test_the_text_of_html_is_what_a_reader_sees(written, text):
    assert html_text(written) == text


def test_long_pages_are_cut():
    assert len(html_text("<p>" + "x" * (2 * MAX_CHARACTERS))) <= MAX_CHARACTERS


@given(st.text(alphabet="<>/&;!-pbscript\0\"'= \n", max_size=60) | st.text(max_size=40))
def test_any_text_gives_lines_without_outer_space(written):
    assert all(
        line == line.strip() and line for line in html_text(written).splitlines(keepends=False) if line
    )


def test_fields_in_html_are_declared_and_lose_their_tags_before_patterns_are_cut():
    table = Table(html=("doc", "all"), remove={"doc": "\\n.*"})
    data = b'{"doc": "<p>One.</p><p>Two.</p>", "all": ["<i>a</i>", 1], "raw": "<b>"}\n'
    record = read_table([Fetched("a.jsonl", data=data)], table)[0][0]
    assert (record["doc"], record["all"], record["raw"]) == ("One.", ["a", 1], "<b>")
