"""The two forms of a text: as it is stored, and as it is compared.

The stored form keeps every visible character of the source. The compared form (the *match key*) forgets
what does not make a text different: case, runs of white space and invisible characters. Everything that
asks "is this the same text?" (duplicates, decontamination, masks of the negative miner) asks it of match
keys, so the answer is the same everywhere. Both are computed by Arrow kernels, a column at a time.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

# RE2 classes: Cc holds the control characters, Cf the invisible ones (joiners, direction marks, BOM),
# Z every kind of space. RE2's own \s is ASCII only.
_LINE_ENDS = r"\r\n?|\x{2028}|\x{2029}|\x{85}"
_CONTROLS = r"[^\P{Cc}\t\n]|\x{FEFF}|\x{200B}|\x{2060}"
_INVISIBLE = r"\p{Cf}"
_SPACE = r"[\s\p{Z}]+"
_OUTER_SPACE = r"^[\s\p{Z}]+|[\s\p{Z}]+$"


def clean_texts(texts: pa.Array) -> pa.Array:
    """The stored form: Unicode NFC, ``\\n`` line ends, no control characters, no outer white space.

    Inner white space stays (it carries meaning in code), and so do joiners inside words (several scripts
    and emoji need them). A null becomes the empty string, which the cleaning rules then reject.

    Takes
        texts: string array of any length.

    Returns
        string array of the same length, without nulls.
    """
    stored = pc.fill_null(texts.cast(pa.string()), "")
    stored = pc.replace_substring_regex(stored, pattern=_LINE_ENDS, replacement="\n")
    stored = pc.replace_substring_regex(stored, pattern=_CONTROLS, replacement="")
    stored = pc.replace_substring_regex(stored, pattern=_OUTER_SPACE, replacement="")
    return pc.utf8_normalize(stored, form="NFC")


def match_keys(texts: pa.Array) -> pa.Array:
    """The compared form: the stored form in lower case, white space runs as one space, nothing invisible.

    Punctuation stays: ``C``, ``C#`` and ``C++`` are different answers.
    """
    keys = pc.utf8_lower(clean_texts(texts))
    keys = pc.replace_substring_regex(keys, pattern=_INVISIBLE, replacement="")
    keys = pc.replace_substring_regex(keys, pattern=_SPACE, replacement=" ")
    # Removing the invisible can bring a combining mark next to its base, or a space to the border.
    return pc.utf8_normalize(pc.utf8_trim(keys, " "), form="NFC")


def match_key(text: str) -> str:
    """The compared form of a single text."""
    return str(match_keys(pa.array([text], pa.string()))[0].as_py())
