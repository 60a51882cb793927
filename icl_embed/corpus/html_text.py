"""The text of a field that is written in HTML: without tags, entities resolved, one line per paragraph.

Descriptions in API models and manuals are such fields. Nothing is rendered, and nothing that is broken is
refused: browsers accept everything too.
"""

from __future__ import annotations

from html.parser import HTMLParser

MAX_CHARACTERS = 4 << 20  # of one field; beyond it, it is a page rather than a text
BLOCKS = frozenset(
    "address article aside blockquote body br dd div dl dt fieldset figure footer form h1 h2 h3 h4 h5 h6 "
    "header hr li main nav ol p pre section table tbody td tfoot th thead title tr ul".split()
)  # what starts a line of its own
NOT_SHOWN = frozenset(["script", "style", "template"])


def html_text(written: str) -> str:
    """What a reader sees of a piece of HTML, cut where it is a whole page; white space becomes one space."""
    if "<" not in written and "&" not in written:
        return "\n".join(_lines(written))
    reader = _Reader()
    reader.feed(written[:MAX_CHARACTERS])
    reader.close()
    return "\n".join(_lines("".join(reader.pieces)))


def _lines(text: str) -> list[str]:
    return [line for raw in text.split("\n") if (line := " ".join(raw.split()))]


class _Reader(HTMLParser):
    """Collects what is between tags."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A block starts a line; what is not shown is passed over up to its end."""
        self._hidden += tag in NOT_SHOWN
        if tag in BLOCKS:
            self.pieces.append("\n")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An empty element hides nothing."""
        if tag in BLOCKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        """The end of a block ends its line."""
        if tag in NOT_SHOWN:
            self._hidden = max(0, self._hidden - 1)
        if tag in BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        """A newline in the source is white space, as a browser sees it."""
        if not self._hidden:
            self.pieces.append(data.replace("\n", " ").replace("\0", " "))
