"""``icl-embed rerank score | rank``: use a reranker on files of pairs and passages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from icl_embed.cli import rerank_options as options
from icl_embed.cli.options import spread
from icl_embed.errors import ConfigError, DataError
from icl_embed.progress import changing_bar
from icl_embed.store.files import write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from icl_embed.rerank.forward import RankedPassage
    from icl_embed.rerank.ways import Way

SUFFIXES = (".jsonl", ".tsv")


@dataclass(frozen=True)
class PairLine:
    """One pair; ``fields`` is everything that its line holds."""

    query: str
    passage: str
    fields: dict[str, Any]


def read_pairs(path: Path) -> list[PairLine]:
    """The pairs of a file, in its order.

    Raises
        DataError: another ending, an unreadable file, or a line that is no pair; names the line.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"--input must end in .jsonl or .tsv, found {path.name}")
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {number}: not UTF-8 ({error.reason})") from error
    lines = text.split("\n")  # splitlines would also cut at rare characters inside a text
    numbered = [(number, line.removesuffix("\r")) for number, line in enumerate(lines, start=1)]
    read = _json_pair if path.suffix == ".jsonl" else _tab_pair
    pairs = [read(f"{path}, line {number}", line) for number, line in numbered if line.strip()]
    if not pairs:
        raise DataError(f"{path} holds no pair; expected one per line")
    return pairs


def write_scored(
    path: Path, pairs: Sequence[PairLine], scores: Sequence[float], probabilities: Sequence[float] = ()
) -> None:
    """Write each pair's line as a JSON object with its ``score``, in the order of the pairs.

    Parameters
        probabilities: of each pair; written as ``probability`` if there are any.

    Raises
        StoreError: the disk refused.
    """
    rows = [{**pair.fields, "score": score} for pair, score in zip(pairs, scores, strict=True)]
    for row, probability in zip(rows, probabilities, strict=False):
        row["probability"] = probability
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, text.encode())


def _json_pair(where: str, line: str) -> PairLine:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    query, passage = (fields.get(name) if isinstance(fields, dict) else None for name in ("query", "passage"))
    if not _is_pair(query, passage):
        raise DataError(f'{where}: expected {{"query": "…", "passage": "…"}}, found {line[:80]}')
    return PairLine(str(query), str(passage), fields)


def _tab_pair(where: str, line: str) -> PairLine:
    columns = line.split("\t")
    if len(columns) != 2 or not _is_pair(*columns):
        raise DataError(f"{where}: expected a query and a passage, found {len(columns)} columns: {line[:80]}")
    return PairLine(columns[0], columns[1], {"query": columns[0], "passage": columns[1]})


def _is_pair(query: Any, passage: Any) -> bool:
    """A passage may be blank: it is scored as such."""
    return isinstance(query, str) and bool(query.strip()) and isinstance(passage, str)


app = typer.Typer(help="Rerank passages with a decoder, at any depth and width.", no_args_is_help=True)
console = Console()


@app.command(
    epilog="Examples: icl-embed rerank score --input pairs.jsonl --output scored.jsonl | "
    "icl-embed rerank score -m my-reranker --input pairs.tsv --output scored.jsonl --choice choice.json"
)
@spread
def score(
    input_: Annotated[
        Path, typer.Option("--input", help='.jsonl of {"query": …, "passage": …}, or .tsv of two columns')
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help=".jsonl: every pair with its score")],
    run: options.ModelOptions,
    asked: options.WayOptions,
) -> None:
    """Score (query, passage) pairs; higher is better. Full depth unless told otherwise.

    With a choice that tuning calibrated, each pair gets the probability that its passage serves the query.
    """
    from icl_embed.rerank.reranker import score_by
    from icl_embed.rerank.ways import name_of

    refuse_other_endings(output, ".jsonl")
    pairs = read_pairs(input_)
    reranker = run.load()
    way = asked.of(reranker.settings)
    texts = [(pair.query, pair.passage) for pair in pairs]
    scores = score_by(reranker, texts, way, batch_tokens=run.batch_tokens, show_progress=True)
    write_scored(output, pairs, scores.tolist(), probabilities_of(scores, way, asked.choice))
    console.print(f"{len(pairs)} pairs, {name_of(way)} → {escape(str(output))}", soft_wrap=True)


@app.command(
    epilog='Examples: icl-embed rerank rank --query "stack smashed" --passages passages.txt --top 3 | '
    'icl-embed rerank rank -q "one" -q "two" --passages passages.jsonl --output ranked.jsonl --ratio 2'
)
@spread
def rank(
    query: Annotated[list[str], typer.Option("--query", "-q", help="a query; several times for several")],
    passages: Annotated[Path, typer.Option("--passages", help="one passage per line, or .jsonl")],
    run: options.ModelOptions,
    asked: options.WayOptions,
    top: Annotated[int, typer.Option("--top", min=1, help="passages per query")] = 10,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=".jsonl: one query per line; default: a table")
    ] = None,
) -> None:
    """Put passages in order for each query, best first."""
    from icl_embed.model.text_files import read_texts
    from icl_embed.rerank.reranker import rank_by

    if output is not None:
        refuse_other_endings(output, ".jsonl")
    texts = read_texts(passages)
    name_blank_lines(passages, texts)
    reranker = run.load()
    way = asked.of(reranker.settings)
    ranked = {}
    with changing_bar() as tell:
        for number, text in enumerate(dict.fromkeys(query)):
            tell("queries", number, len(query))
            found = rank_by(reranker, text, texts, way, top_k=top, batch_tokens=run.batch_tokens)
            ranked[text] = [one for one in found if one.passage.strip()]
    if output is None:
        console.print(_ranked_table(ranked))
    else:
        write_atomically(output, _ranked_lines(ranked).encode())
        console.print(f"{len(ranked)} queries → {escape(str(output))}", soft_wrap=True)


def name_blank_lines(path: Path, texts: Sequence[str]) -> None:
    """Say which lines of a file of passages are blank and so left out; raises DataError if all are."""
    blank = [str(number) for number, text in enumerate(texts, start=1) if not text.strip()]
    if len(blank) == len(texts):
        raise DataError(f"{path} holds no passage; expected one per line")
    if blank:
        shown = ", ".join(blank[:5]) + (f" and {len(blank) - 5} more" if len(blank) > 5 else "")
        Console(stderr=True).print(
            f"{escape(str(path))}: left out, as blank: line {shown}", style="yellow", soft_wrap=True
        )


def probabilities_of(scores: NDArray[Any], way: Way, choice: Path | None) -> list[float]:
    """By the calibration of a choice; none without one, or for a cascade, whose scores are an order alone."""
    from icl_embed.evaluation.reranker.tuning import read_choice
    from icl_embed.rerank.shape import Shape, sigmoid

    calibration = read_choice(choice).calibration if choice and isinstance(way, Shape) else None
    if calibration is None:
        return []
    found: list[float] = sigmoid(calibration.slope * scores + calibration.offset).tolist()
    return found


def refuse_other_endings(path: Path, ending: str) -> None:
    """Tell a wrong output name before the work, not after it; raises ConfigError."""
    if path.suffix != ending:
        raise ConfigError(f"--output must end in {ending}, found {path.name}")


def _ranked_table(ranked: dict[str, list[RankedPassage]]) -> Table:
    table = Table("query", "", "score", "line", "passage", box=None, pad_edge=False)
    for query, found in ranked.items():
        for place, item in enumerate(found, start=1):
            shown = escape(_short(query, 60)) if place == 1 else ""
            table.add_row(
                shown,
                str(place),
                f"{item.score:.3f}",
                str(item.position + 1),
                escape(_short(item.passage, 160)),
            )
    return table


def _ranked_lines(ranked: dict[str, list[RankedPassage]]) -> str:
    rows = [
        {
            "query": query,
            "ranked": [
                {"line": item.position + 1, "score": item.score, "passage": item.passage} for item in found
            ],
        }
        for query, found in ranked.items()
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _short(text: str, length: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1] + "…"
