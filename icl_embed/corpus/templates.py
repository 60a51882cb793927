"""Templates, conditions and joins: the small language of a card's mapping (see ``sources.card_rows``)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from icl_embed.corpus.records import Record, where
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import Condition, Join, LabelRule

_PIECES = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")


@lru_cache(maxsize=512)
def _parsed(template: str) -> tuple[tuple[str, str], ...]:
    """(literal text before, field name or "") pairs.

    Raises
        DataError: a brace that belongs to nothing.
    """
    parts: list[tuple[str, str]] = []
    literal, end = "", 0
    for found in _PIECES.finditer(template):
        literal += template[end : found.start()]
        end = found.end()
        if found.group(1):
            parts.append((literal, found.group(1)))
            literal = ""
        elif found.group() in ("{{", "}}"):
            literal += found.group()[0]
        else:
            raise DataError(
                f"the template {template!r} has a lone {found.group()!r}; write it twice for a brace"
            )
    return (*parts, (literal + template[end:], ""))


def text_of(template: str, record: Mapping[str, Any]) -> str:
    """The template with its fields filled in, without outer white space; nothing becomes an empty text.

    ``{field?}`` may be absent from a record; ``{field}`` may not. ``{a|b}`` is the first that is not empty.

    Raises
        DataError: an absent field, or a value that is not one text or number; names file, record and field.
    """
    pieces = []
    for literal, name in _parsed(template):
        pieces.append(literal)
        if name:
            pieces.append(_as_text(_field(record, name), name, record))
    return "".join(pieces).strip()


def texts_of(templates: str | Sequence[str], record: Mapping[str, Any]) -> list[str]:
    """All texts of one or several templates; a template that is one field alone may hold a list."""
    return [text for text in _all_texts(templates, record) if text]


def _all_texts(templates: str | Sequence[str], record: Mapping[str, Any]) -> list[str]:
    """As ``texts_of``, with the empty ones, in their places."""
    found: list[str] = []
    for template in [templates] if isinstance(templates, str) else templates:
        if not template:
            continue
        parts = _parsed(template)
        value = _field(record, parts[0][1]) if _is_single(parts) else None
        if isinstance(value, list):
            found += [_as_text(item, parts[0][1], record).strip() for item in value]
        else:
            found.append(text_of(template, record))
    return found


def scored_texts_of(
    what: str, templates: str | Sequence[str], scores: str, record: Mapping[str, Any], rejected: Counter[str]
) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """The texts and the score of each; an empty text goes with its score, and is counted.

    Parameters
        what: what the texts are called, in the singular.
        scores: template of a list of numbers; empty, or a field that is absent, for none.

    Raises
        DataError: not as many scores as texts, or a score that is no finite number; names file and record.
    """
    texts = _all_texts(templates, record)
    values = _values_of(scores, record)
    filled = [text for text in texts if text]
    if values is not None or len(texts) > 1:  # one alone that is empty is an optional field that is absent
        rejected[f"empty {what}"] += len(texts) - len(filled)
    if values is None:
        return tuple(filled), None
    if len(values) == len(filled):  # also where the source has no scores for its empty texts
        texts = filled
    if len(values) != len(texts):
        raise DataError(f"{where(record)}: {len(values)} {what} scores for {len(texts)} {what}s")
    kept = [
        (text, _as_number(value, scores, record)) for text, value in zip(texts, values, strict=True) if text
    ]
    return tuple(text for text, _ in kept), tuple(number for _, number in kept)


def _values_of(template: str, record: Mapping[str, Any]) -> list[Any] | None:
    """The list at a template that is one field, or nothing if the template is empty or the field absent."""
    if not template:
        return None
    parts = _parsed(template)
    value = record.get(parts[0][1].removesuffix("?")) if _is_single(parts) else None
    if value is None:
        return None
    return value if isinstance(value, list) else [value]


def number_of(template: str, record: Mapping[str, Any]) -> float | None:
    """One finite number, or nothing if the template is empty.

    Raises
        DataError: not a number, NaN or infinite.
    """
    return _as_number(text_of(template, record), template, record) if template else None


def fulfils(record: Mapping[str, Any], conditions: Mapping[str, Condition]) -> bool:
    """Whether a record meets all conditions. An absent field is an empty text, and no number."""
    return all(_meets(record.get(name), name, condition, record) for name, condition in conditions.items())


def label_by_rules(record: Mapping[str, Any], rules: Sequence[LabelRule]) -> str:
    """The label of the first rule that fits; empty if none does."""
    return next((rule.label for rule in rules if fulfils(record, rule.where)), "")


def exploded(records: Iterable[Record], field: str) -> Iterator[Record]:
    """One record per element of a list field; records without an element vanish."""
    for record in records:
        value = record.get(field)
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                yield {**record, field: item}


def joined(
    records: Iterable[Record], join: Join, other: Sequence[Record], rejected: Counter[str]
) -> Iterator[Record]:
    """Each record with the fields of its partner; those without a partner are counted and vanish.

    Raises
        DataError: a key of the other table is not unique.
    """
    partners: dict[str, Record] = {}
    for partner in other:
        key = text_of(join.key, partner)
        if key in partners:
            raise DataError(
                f"{where(partner)}: the key {key!r} is also in {where(partners[key])}; a join needs one"
            )
        partners[key] = partner
    for record in records:
        found = partners.get(text_of(join.on, record))
        if found is None:
            rejected[f"no partner in {join.table}"] += 1
        else:
            yield {**record, **{f"{join.prefix}.{name}": value for name, value in found.items()}}


def _is_single(parts: tuple[tuple[str, str], ...]) -> bool:
    return len(parts) == 2 and parts[0][0] == "" == parts[1][0] and bool(parts[0][1])


def _field(record: Mapping[str, Any], name: str) -> Any:
    keys = name.removesuffix("?").split("|")
    present = [record[key] for key in keys if key in record]
    if not present and not name.endswith("?"):
        there = ", ".join(str(field) for field in record if not str(field).startswith("_"))
        raise DataError(f'{where(record)}: no field "{" or ".join(keys)}"; it has: {there or "none"}')
    return next((value for value in present if value not in (None, "", [])), None)


def _as_text(value: Any, name: str, record: Mapping[str, Any]) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or value == []:
        return ""
    if isinstance(value, str):
        if "\0" in value:
            raise DataError(f'{where(record)}: field "{name}" holds a NUL character')
        return value
    if isinstance(value, bool | int):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, float):
        return repr(_as_number(value, name, record))
    what = (
        f"{len(value)} values; explode the field" if isinstance(value, list) else f"a {type(value).__name__}"
    )
    raise DataError(f'{where(record)}: field "{name}" must be one text, found {what}')


def _as_number(value: Any, name: str, record: Mapping[str, Any]) -> float:
    number = math.nan
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
    if not math.isfinite(number):
        raise DataError(f'{where(record)}: field "{name}" must be a finite number, found {str(value)[:40]!r}')
    return number


def _meets(value: Any, name: str, condition: Condition, record: Mapping[str, Any]) -> bool:
    text = "\n".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    if condition.min is not None or condition.max is not None:
        if text == "":
            return False
        number = _as_number(value, name, record)
        if not (condition.min is None or number >= condition.min):
            return False
        if not (condition.max is None or number <= condition.max):
            return False
    checks = (
        condition.among is None or text in condition.among,
        condition.not_among is None or text not in condition.not_among,
        condition.matches is None or re.search(condition.matches, text) is not None,
        condition.not_matches is None or re.search(condition.not_matches, text) is None,
        condition.min_characters is None or len(text) >= condition.min_characters,
        condition.max_characters is None or len(text) <= condition.max_characters,
    )
    return all(checks)
