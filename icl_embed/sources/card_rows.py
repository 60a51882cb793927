"""How records become rows: ``[tables.*]``, ``[rows]``, ``[corpus]``, ``[negatives]``, ``[splits]`` of a card.

This file is the whole mapping language, and its documentation.

1. ``[tables.NAME]`` reads files into flat records: field name → text, number, list or nothing. Every record
   also has ``_file`` (the file's name), ``_stem`` (``a/b.tsv.gz`` → ``b``), ``_folder`` (→ ``a``) and
   ``_number`` (its place in the file, from 1).
2. ``[rows]`` turns the records of one table into rows, by *templates*: ``"{title}. {body}"`` puts fields
   into a text; a template that is one field alone (``"{answers}"``) keeps a list as a list.
   ``explode`` makes one record per element of a list field, ``joins`` looks up records of other tables,
   ``where`` keeps the records that fulfil all conditions.
3. ``[corpus]`` (retrieval) names the passages that are searched; without it they are the rows' positives.
4. ``[negatives]`` takes negatives from records that share a key (siblings in a classification, functions of
   one module): relations that people made, not ones we guess.
5. ``[splits]`` says which row is train, dev or test, so that no text is in two splits.
"""

from __future__ import annotations

import codecs
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from icl_embed.sources.card_source import Part

Format = Literal[
    "auto",
    "jsonl",
    "json",
    "csv",
    "tsv",
    "qrels",
    "parquet",
    "arrow",
    "xml",
    "yaml",
    "python",
    "lines",
    "matrix",
    "text",
    "dictd",
]
FieldName = Annotated[str, Field(pattern=r"^[^{}\x00]+$")]
Templates = str | tuple[str, ...]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


WIDE_ENCODINGS = ("utf-16", "utf-32")  # where a byte 10 is not the end of a line; also with -le and -be


def _is_encoding(name: str) -> str:
    known = ""
    try:
        known = codecs.lookup(name).name
        readable = known.startswith(WIDE_ENCODINGS) or b"a\n".decode(known) == "a\n"
    except (LookupError, ValueError):
        readable = False
    if not readable:
        raise ValueError(
            "no encoding of texts; usual ones are utf-8, utf-16, gb18030, shift_jis, cp1252, latin-1"
        )
    return "latin-1" if known == "iso8859-1" else known


Encoding = Annotated[str, AfterValidator(_is_encoding)]
"""Any encoding that Python knows and that keeps lines apart."""


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    return pattern


class Table(Part):
    """Records read from files.

    ``records`` and the values of ``fields`` are paths. In XML they are ElementTree paths from the record's
    element (``Description``, ``Notes/Note``, ``Link[@Type='a']/@ID``; ``ancestor::chapter/desc`` and
    ``../desc`` look outwards; ``.`` is the element's whole text). In JSON and YAML they are dotted keys
    (``data.items.*``; ``*`` is every element of a list, or every entry of a mapping as {key, value}). Their
    ``records`` also know ``key?`` (passes over what has no such key) and ``**`` (a value and all that is
    nested in it: ``resources.**.methods.*``), and their fields ``../name`` (climbs one step of ``records``)
    and ``$.name`` (from the document). In ``text`` both are regular expressions: ``records`` finds
    the records, and a field's path its value within one (the first group; several finds are a list).
    ``dictd`` reads ``NAME.index`` with ``NAME.dict.dz``: word, text, leads, and fields found as in ``text``.
    In the others, a field's path is a column's name.
    """

    files: tuple[str, ...] = Field(("**",), min_length=1, description="globs over the source's files")
    format: Format = Field(
        "auto",
        description="auto: by the file name's ending, before .gz and the like; qrels: BEIR's or TREC's",
    )
    encoding: Encoding = Field(
        "utf-8", description="e.g. utf-16, gb18030, cp1252; xml: the file says it itself"
    )
    records: str = Field(
        "", description="where records are: an XML element, a path in JSON or YAML, a pattern in text"
    )
    fields: dict[FieldName, str] = Field({}, description="name → path; empty keeps the record's own fields")
    columns: tuple[str, ...] = Field((), description="csv, tsv: the columns of a file without header")
    comment: str = Field("", description="csv, tsv, lines: lines that start so are skipped")
    delimiter: str = Field("", max_length=1, description="csv: other than a comma")
    html: tuple[FieldName, ...] = Field((), description="fields in HTML: only their text is kept, by lines")
    remove: dict[FieldName, str] = Field({}, description="field → regular expression; matches are cut out")
    max_malformed: Fraction = Field(0.0, description="tolerated share of unreadable records")

    @field_validator("remove")
    @classmethod
    def _patterns_compile(cls, remove: dict[str, str]) -> dict[str, str]:
        return {name: _compiles(pattern) for name, pattern in remove.items()}


class Condition(Part):
    """What a field must fulfil; all given parts together. On a list, the whole list is compared as text."""

    among: tuple[str, ...] | None = None
    not_among: tuple[str, ...] | None = None
    min: float | None = None
    max: float | None = None
    matches: str | None = Field(None, description="regular expression, found anywhere")
    not_matches: str | None = None
    min_characters: int | None = None
    max_characters: int | None = None

    @field_validator("matches", "not_matches")
    @classmethod
    def _pattern_compiles(cls, pattern: str | None) -> str | None:
        return pattern if pattern is None else _compiles(pattern)


class Join(Part):
    """For each record, the one record of another table whose ``key`` equals ``on``; fields get a prefix."""

    table: str
    on: str = Field(description="template over the record")
    key: str = Field(description="template over the other table's records; must be unique there")
    prefix: str = Field(description="its fields are then called prefix.field")


class LabelRule(Part):
    """A label for the records that fulfil conditions; the first rule that fits wins."""

    label: str = Field(min_length=1)
    where: dict[FieldName, Condition]


class Rows(Part):
    """One row of the contract per record: templates for each of its columns."""

    table: str = Field("", description="default: the only table")
    joins: tuple[Join, ...] = ()
    explode: str = Field("", description="a list field: one record per element")
    where: dict[FieldName, Condition] = Field({})
    query: str = Field(min_length=1)
    positives: Templates = ()
    negatives: Templates = ()
    label: str = ""
    labels: dict[str, str] = Field({}, description="label as found → human-readable label")
    label_rules: tuple[LabelRule, ...] = Field((), description="labels from conditions, e.g. of a rating")
    score: str = Field("", description="a number: gold similarity; for pair_classification 0 or 1")
    positive_scores: str = ""
    negative_scores: str = ""


class Corpus(Part):
    """The passages that retrieval searches."""

    table: str = Field("", description="default: the rows' table")
    text: str = Field(min_length=1, description="template; positives must come out as the same text")
    where: dict[FieldName, Condition] = Field({})
    shared: bool = Field(False, description="one corpus for all splits, as in most published benchmarks")


class Negatives(Part):
    """Negatives from relations in the data: other records with the same key."""

    table: str = Field("", description="default: the rows' table")
    same: str = Field(min_length=1, description="template over both tables: records with an equal key")
    text: str = Field(min_length=1, description="template of the negative's text")
    limit: int = Field(8, ge=1, le=100, description="at most so many per row, chosen by hash")
    minimum: int = Field(1, ge=0, description="rows with fewer are dropped and counted")


SplitName = Literal["train", "dev", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "dev", "test")
USUAL_SPLIT_NAMES = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}


class Splits(Part):
    """Which rows are train, dev and test.

    ``hash``: rows that share a group key or any text stay together, and go to a split by the hash of what
    they share. ``text``: every text goes to a split by its own hash, and rows whose texts disagree are
    dropped; for dense pair data, where everything would hang together. ``given``: the source says it;
    ``train``, ``dev``, ``test`` then list the values of ``value``, and a text that is in two splits is
    dropped from the one that comes first in train, dev, test.

    Texts that were chosen by this hash before (the training rows that we export, say) would all fall into one
    split again; a draw that cannot be chance is therefore drawn anew, with salt.
    """

    method: Literal["hash", "text", "given"] = "hash"
    group: str = Field("", description="hash: template; rows (and passages) of one group stay together")
    value: str = Field("{_stem}", description="given: template that names the split")
    train: Fraction | tuple[str, ...] = 0.8
    dev: Fraction | tuple[str, ...] = 0.0
    test: Fraction | tuple[str, ...] = 0.2

    @model_validator(mode="before")
    @classmethod
    def _usual_names(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("method") == "given":
            return {**USUAL_SPLIT_NAMES, **values}
        return values

    @model_validator(mode="after")
    def _parts_fit_the_method(self) -> Splits:
        parts = [self.train, self.dev, self.test]
        if self.method == "given":
            if any(isinstance(part, float) for part in parts):
                raise ValueError('with method = "given", train, dev and test are lists of names')
            return self
        if any(isinstance(part, tuple) for part in parts):
            raise ValueError(f'with method = "{self.method}", train, dev and test are fractions')
        total = sum(self.fractions())
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"train + dev + test must be 1, found {total:g}")
        return self

    def split_of(self, value: str) -> SplitName | None:
        """The split that a source's own name means under ``given``; None when it is not used."""
        return next((name for name in SPLIT_NAMES if value in self.names_of(name)), None)

    def names_of(self, split: SplitName) -> tuple[str, ...]:
        """The source's own names of a split under ``given``."""
        part = getattr(self, split)
        return part if isinstance(part, tuple) else ()

    def fractions(self) -> tuple[float, float, float]:
        """Shares of train, dev and test under ``hash`` and ``text``."""
        train, dev, test = (0.0 if isinstance(p, tuple) else p for p in (self.train, self.dev, self.test))
        return train, dev, test
