"""Dictionaries of dictd: an index of words, and the file of texts that it points into (dictfmt(1)).

A line of ``NAME.index`` is a word, the offset of its entry in ``NAME.dict`` or ``NAME.dict.dz`` (which is
gzip), and the entry's length, both as numbers of base 64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from string import ascii_lowercase, ascii_uppercase, digits

from icl_embed.corpus.read_lines import decoded, not_encoded, raw_lines
from icl_embed.corpus.read_text import extracted, patterns_of
from icl_embed.corpus.records import Record, Tolerance, fault, place_fields
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import Fetched

MAX_DICTIONARY_BYTES = 512 << 20
MAX_ENTRIES_BYTES = (
    1 << 30
)  # of all entries together: an index may point at the same megabytes again and again
MAX_DIGITS = 11  # of a number of base 64 below 2 to the 64
DIGITS = {digit: value for value, digit in enumerate(ascii_uppercase + ascii_lowercase + digits + "+/")}
ABOUT_ITSELF = ("00-", "00database")  # how a dictionary calls its own title, address and licence


def read_dictd(
    file: Fetched, table: Table, tolerance: Tolerance, beside: Sequence[Fetched]
) -> Iterator[Record]:
    """One record per line of the index, in its order; what the dictionary says of itself is passed over.

    Its fields: ``word``, ``text`` (the entry as written), ``leads`` (1 if the entry begins with the word, 0
    if the word is only another way to it), and those that the card's patterns find in the entry.

    Parameters
        file: the index.
        beside: the files among which its texts are.

    Raises
        DataError: there are no texts, they are too long, or a pattern is no regular expression.
    """
    patterns = patterns_of(table, file.name)
    texts = _texts_of(file.name, beside)
    taken = 0
    for number, line in raw_lines(file):
        try:
            word, offset, length = _line(line, file.name, number)
            if word.startswith(ABOUT_ITSELF):
                continue
            taken += length
            if taken > MAX_ENTRIES_BYTES:
                raise DataError(f"the entries of {file.name} hold more than {MAX_ENTRIES_BYTES} bytes")
            entry = _entry(texts, offset, length, table.encoding, file.name, number)
        except DataError as error:
            tolerance.reject(error)
            continue
        own: Record = {"word": word, "text": entry, "leads": int(entry.startswith(word))}
        yield {**own, **extracted(entry, patterns), **place_fields(file.name, number)}


def _texts_of(index: str, beside: Sequence[Fetched]) -> bytes:
    stem = index.removesuffix(".index")
    wanted = (f"{stem}.dict.dz", f"{stem}.dict")
    found = next((other for other in beside if other.name in wanted), None)
    if found is None:
        raise DataError(f"{index} points into {' or '.join(wanted)}, which is missing: name it in members")
    with found.open() as handle:
        texts = handle.read(MAX_DICTIONARY_BYTES + 1)
    if len(texts) > MAX_DICTIONARY_BYTES:
        raise DataError(f"{found.name} is longer than {MAX_DICTIONARY_BYTES} bytes")
    return texts


def _line(line: bytes, file: str, number: int) -> tuple[str, int, int]:
    """Word, offset and length; a fourth column is the word as it is shown."""
    columns = decoded(line, "utf-8", file, number).split("\t")
    if len(columns) not in (3, 4) or not columns[0]:
        raise fault(file, number, f"expected a word, an offset and a length, found {len(columns)} columns")
    offset, length = (_number(column, file, number) for column in columns[1:3])
    return columns[-1] if len(columns) == 4 else columns[0], offset, length


def _number(written: str, file: str, number: int) -> int:
    if not written or len(written) > MAX_DIGITS or not DIGITS.keys() >= set(written):
        raise fault(file, number, f"{written[:40]!r} is not a number of base 64 (A-Z, a-z, 0-9, + and /)")
    value = 0
    for digit in written:
        value = value * len(DIGITS) + DIGITS[digit]
    return value


def _entry(texts: bytes, offset: int, length: int, encoding: str, file: str, number: int) -> str:
    if offset + length > len(texts):
        raise fault(
            file,
            number,
            f"points at bytes {offset} to {offset + length}, but the dictionary has {len(texts)}; "
            "are both files of the same version?",
        )
    try:
        return texts[offset : offset + length].decode(encoding)
    except UnicodeError as error:
        raise fault(file, number, f"its entry {not_encoded(encoding, str(error))}") from error
