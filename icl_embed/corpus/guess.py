"""What a file or folder that somebody has lying about is: a known layout, and the card that reads it.

Told by the names of columns alone, and where these leave a choice by the first values: FlagEmbedding's lines,
sentence-transformers' columns, BEIR's folders, MS MARCO's triples, labelled texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from icl_embed.config import Kind
from icl_embed.corpus.read import first_records
from icl_embed.corpus.read_lines import text_lines
from icl_embed.corpus.records import Record, Tolerance
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import Table
from icl_embed.sources.collection import SHARD_ENDINGS
from icl_embed.sources.fetched import Fetched, plain_name
from icl_embed.sources.local import fetch_local

QUERIES = ("anchor", "query", "question")
POSITIVES = ("positive", "answer", "passage", "document", "response", "context")
NEGATIVE = re.compile(r"neg(ative)?s?(_?\d+)?")
PAIRS = (
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("text1", "text2"),
    ("premise", "hypothesis"),
)
SCORES = ("score", "similarity", "similarity_score")
LABELS = ("label_text", "label", "category", "class", "intent")
TEXTS = ("text", "sentence", "content", "utterance")
HEADERLESS = {2: ("query", "positive"), 3: ("query", "positive", "negative")}
FIRST_RECORDS = 200
FEW_ROWS = 100  # below these nothing is set apart for a test
INSTRUCTIONS: dict[Kind, str] = {
    "retrieval": "Given a query, retrieve the passages that answer it",
    "sts": "Retrieve semantically similar text",
    "pair_classification": "Retrieve texts that say the same",
    "classification": "Classify the text",
}
KNOWN = (
    "query + pos (+ neg, pos_scores, neg_scores, type, prompt, category): FlagEmbedding",
    "anchor or query + positive (+ negative, negative_1, …): pairs and triples of sentence-transformers",
    "sentence1 + sentence2 + score, or + label (0 or 1): scored or labelled pairs",
    "text + label: labelled texts",
    "three columns without a header, in .tsv: query, positive, negative, as MS MARCO's triples",
    "a folder with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv: BEIR",
)


@dataclass(frozen=True)
class Guess:
    """A layout in words, why it is that, and the text of the card."""

    layout: str
    reason: str
    card: str


def guess_card(path: Path) -> Guess:
    """The card for a data file or folder.

    Raises
        DataError: nothing known fits; the message names what was found and what is known.
        SourceError: there is nothing, or it is damaged.
    """
    files = [file for file in fetch_local(path, ("**",)) if not Path(file.name).name.startswith(".")]
    names = {plain_name(file.name) for file in files}
    if {"corpus.jsonl", "queries.jsonl"} <= names and any(name.startswith("qrels/") for name in names):
        card = _card(path, "retrieval", layout='layout = "folder"\n')
        return Guess("a BEIR folder", "it has corpus.jsonl, queries.jsonl and qrels", card)
    data = [
        file for file in files if plain_name(file.name).endswith((*SHARD_ENDINGS, ".json", ".csv", ".tsv"))
    ]
    if not data:
        listed = ", ".join(file.name for file in files[:8])
        raise DataError(f"{path} holds no data file that is known here (found: {listed}){_known()}")
    table = Table()
    if plain_name(data[0].name).endswith(".tsv"):
        table = Table(columns=_columns_without_header(data[0]))
    records = first_records(data[0], table, FIRST_RECORDS)
    if not records:
        raise DataError(f"{data[0].name} holds no record")
    return _of_columns(path, records, table, data)


def _columns_without_header(file: Fetched) -> tuple[str, ...]:
    """The columns of a .tsv whose first line names none; nothing if it is a header."""
    first = next(text_lines(file, Table(), Tolerance(0.0, file.name)), (1, ""))[1].split("\t")
    words = {cell.strip().lower() for cell in first}
    heads = {*QUERIES, *POSITIVES, *SCORES, *LABELS, *TEXTS, *(name for pair in PAIRS for name in pair)}
    if words & heads or len(first) not in HEADERLESS:
        return ()
    if all(cell.strip().isdecimal() for cell in first):
        raise DataError(
            f"{file.name} holds ids without texts ({', '.join(first)}): a card must join "
            "them with the files that have the texts; icl_embed/sources/card_rows.py says how"
        )
    return HEADERLESS[len(first)]


def _of_columns(path: Path, records: Sequence[Record], table: Table, data: Sequence[Fetched]) -> Guess:
    columns = {name.lower(): name for name in records[0] if not name.startswith("_")}
    found = f"{data[0].name} has the columns {', '.join(columns.values())}"
    if {"query", "pos"} <= set(columns) and all(file.name.endswith(SHARD_ENDINGS) for file in data):
        has_prompt = all(record.get("prompt") for record in records)
        return Guess("FlagEmbedding's rows", found, _collection(path, has_prompt=has_prompt))
    if len(data) > 1 and len({Path(file.name).suffix for file in data}) > 1:
        raise DataError(
            f"{path} holds files of several formats: {', '.join(f.name for f in data[:8])}{_known()}"
        )
    query, positive = _first_of(columns, QUERIES), _first_of(columns, POSITIVES)
    if not (query and positive):
        query, positive = next(
            ((columns[a], columns[b]) for a, b in PAIRS if {a, b} <= set(columns)), ("", "")
        )
    score, label = _first_of(columns, SCORES), _first_of(columns, LABELS)
    text = _first_of(columns, TEXTS)
    rest = (path, records, table)
    if query and positive:
        negatives = [name for low, name in columns.items() if NEGATIVE.fullmatch(low)]
        if negatives:
            templates = [f"{{{name}?}}" for name in negatives]
            lines = [
                _line("query", query),
                _line("positives", positive),
                f"negatives = {json.dumps(templates)}",
            ]
            return Guess("a query, its positive and negatives", found, _records(*rest, "retrieval", lines))
        pair = [_line("query", query), _line("positives", positive)]
        if score or label:
            kind = _pair_kind(records, score, label)
            return Guess(
                f"scored pairs ({kind})",
                found,
                _records(*rest, kind, [*pair, _line("score", score or label)]),
            )
        return Guess("pairs of a query and its positive", found, _records(*rest, "retrieval", pair))
    if text and label:
        lines = [_line("query", text), _line("label", label)]
        return Guess("labelled texts", found, _records(*rest, "classification", lines))
    raise DataError(f"{found}, which fit no layout that is known here{_known()}")


def _pair_kind(records: Sequence[Record], score: str, label: str) -> Kind:
    """The kind is sts for grades, pair_classification for 0 and 1.

    Raises
        DataError: the values are neither.
    """
    values = {str(record.get(score or label)) for record in records}
    if values <= {"0", "1", "0.0", "1.0"}:
        return "pair_classification"
    try:
        [float(value) for value in values]
    except ValueError:
        few = ", ".join(sorted(values)[:6])
        raise DataError(
            f"{score or label} holds {few}: a pair needs a number, or 0 and 1. "
            "Write a card whose [rows] where keeps the pairs that are positives"
        ) from None
    if not score and len(values) < 4:
        raise DataError(
            f"{label} holds {', '.join(sorted(values))}: classes of pairs, of which 0 and 1 are "
            "known. Write a card whose [rows] where keeps the pairs that are positives"
        )
    return "sts"


def _first_of(columns: dict[str, str], names: Iterable[str]) -> str:
    return next((columns[name] for name in names if name in columns), "")


def _line(name: str, column: str) -> str:
    return f"{name} = {json.dumps(f'{{{column}}}', ensure_ascii=False)}"


def _records(path: Path, records: Sequence[Record], table: Table, kind: Kind, rows: Sequence[str]) -> str:
    """A card of the mapping language; a test is set apart where there are rows enough."""
    columns = f"columns = {json.dumps(table.columns)}\n" if table.columns else ""
    shares = "train = 0.8\ntest = 0.2\n" if len(records) >= FEW_ROWS else "train = 1.0\ntest = 0.0\n"
    body = "\n".join(["", f"[tables.rows]\n{columns}", "[rows]", *rows, "", f"[splits]\n{shares}"])
    return _card(path, kind) + body


def _card(path: Path, kind: Kind, layout: str = "") -> str:
    head = f"kind = {json.dumps(kind)}\ninstruction = {json.dumps(INSTRUCTIONS[kind])}\n"
    return _head(path, head + layout)


def _collection(path: Path, *, has_prompt: bool) -> str:
    said = "" if has_prompt else f'\n[instructions]\n"*" = {json.dumps(INSTRUCTIONS["retrieval"])}\n'
    return _head(path, 'layout = "collection"\n') + said


def _head(path: Path, more: str) -> str:
    stem = plain_name(path.absolute().name).rpartition(".")[0] or path.absolute().name
    name = re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:64] or "mine"
    place = json.dumps(str(path.absolute()), ensure_ascii=False)
    return (
        f'name = "{name}"\ntitle = {json.dumps(stem, ensure_ascii=False)}\n{more}'
        'licence = "unknown: say under which terms these rows may be used"\nhomepage = ""\n'
        f'source = {{ kind = "local", path = {place} }}\n'
    )


def _known() -> str:
    return "; known are:\n  " + "\n  ".join(KNOWN)
