"""The two forms of a text: as it is stored, and as it is compared.

The stored form keeps every visible character of the source. The compared form forgets what does not make a
text different. Everything that asks "is this the same text?" asks here: splits, duplicates, decontamination,
the masks of the negative miner, the examples that may not show what is evaluated. What one of them lets pass,
all of them do.
"""

from __future__ import annotations

import hashlib
import sys
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_SPACES = frozenset("\t\n\r\x0b\x0c\x85")  # control characters that part words

# RE2 classes: Cc holds the control characters, Z every kind of space. RE2's own \s is ASCII only.
_LINE_ENDS = r"\r\n?|\x{2028}|\x{2029}|\x{85}"
_CONTROLS = r"[^\P{Cc}\t\n]|\x{FEFF}|\x{200B}|\x{2060}"
_OUTER_SPACE = r"^[\s\p{Z}]+|[\s\p{Z}]+$"
_UNSTORED = rf"{_LINE_ENDS}|{_CONTROLS}|{_OUTER_SPACE}"


def clean_texts(texts: pa.Array) -> pa.Array:
    """The stored form: Unicode NFC, ``\\n`` line ends, no control characters, no outer white space.

    Inner white space stays (it carries meaning in code), and so do joiners inside words (several scripts
    and emoji need them). A null becomes the empty string, which the cleaning rules then reject.

    Parameters
        texts: string array of any length.

    Returns
        string array of the same length, without nulls.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    stored = pc.fill_null(texts.cast(pa.string()), "")
    is_stored = pc.and_not(pc.string_is_ascii(stored), pc.match_substring_regex(stored, pattern=_UNSTORED))
    return _but_for(stored, is_stored, _cleaned)


def _cleaned(stored: pa.Array) -> pa.Array:
    import pyarrow.compute as pc

    stored = pc.replace_substring_regex(stored, pattern=_LINE_ENDS, replacement="\n")
    stored = pc.replace_substring_regex(stored, pattern=_CONTROLS, replacement="")
    stored = pc.replace_substring_regex(stored, pattern=_OUTER_SPACE, replacement="")
    return pc.utf8_normalize(stored, form="NFC")


@cache
def _invisible() -> dict[int, None]:
    """Control and format characters (joiners, direction marks, byte order marks), for ``str.translate``."""
    return {
        code: None
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in ("Cc", "Cf") and chr(code) not in _SPACES
    }


def _visible(text: str) -> str:
    """Without what is invisible. Nearly all texts are printable, and asking that is ten times faster."""
    return text if text.isprintable() else text.translate(_invisible())


def compared_form(text: str) -> str:
    """The compared form: compatible characters as one, no case, nothing invisible, white space as one space.

    ``STRASSE`` is ``Straße`` and full-width letters are letters (Unicode NFKC and case folding); punctuation
    stays, as ``C``, ``C#`` and ``C++`` are different answers. A form is its own form.
    """
    if text.isascii():
        return " ".join(_visible(text.lower()).split())
    folded = _visible(unicodedata.normalize("NFKC", text).casefold())
    # without what is invisible a mark may stand next to its base, and folding may have taken letters apart
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def compared_forms(texts: Iterable[str]) -> list[str]:
    """``compared_form`` of every text."""
    return list(map(compared_form, texts))


def compared_column(texts: pa.Array) -> pa.Array:
    """``compared_form`` of an Arrow column, whose nulls are empty texts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # Copied, because Arrow 26 makes an invalid array of the lower case of a slice whose type was cast.
    given = pa.concat_arrays([pc.fill_null(texts.cast(pa.string()), "")])
    # printable ASCII whose white space is single spaces inside: only its case is forgotten
    is_plain = pc.and_not(
        pc.ascii_is_printable(given), pc.match_substring_regex(given, pattern="^ |  | $|^$")
    )
    return _but_for(
        pc.ascii_lower(given),
        is_plain,
        lambda rest: pa.array(compared_forms(rest.to_pylist()), pa.string()),
        given,
    )


def _but_for(
    done: pa.Array, is_done: pa.Array, change: Callable[[pa.Array], pa.Array], given: pa.Array | None = None
) -> pa.Array:
    """``done`` where it is done, and what a slower function makes of the others, which are few."""
    import pyarrow.compute as pc

    rest = pc.invert(is_done)
    changed = change((done if given is None else given).filter(rest))
    return pc.replace_with_mask(done, rest, changed) if len(changed) else done


ID_LENGTH = 16


def text_id(text: str) -> str:
    """The pool's id of a text in its stored form: the first 64 bits of its sha256, 16 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]
