"""Python sources as data: each documented function is a record. The code is parsed, never imported or run."""

from __future__ import annotations

import ast
import textwrap
import warnings
from collections.abc import Iterator

from icl_embed.corpus.records import Record, Tolerance, fault, place_fields
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import Fetched

MAX_SOURCE_BYTES = 8 << 20
Function = ast.FunctionDef | ast.AsyncFunctionDef


def read_python(file: Fetched, table: Table, tolerance: Tolerance) -> Iterator[Record]:
    """One record per documented function of the module and its classes.

    Its fields: ``name``, ``owner`` (class or ""), ``module``, ``summary`` (the docstring's first paragraph in
    one line), ``docstring``, ``code`` (the function without its docstring), ``statements`` (their number).

    A file that this Python cannot parse is one malformed record.
    """
    with file.open() as handle:
        data = handle.read(MAX_SOURCE_BYTES + 1)
    if len(data) > MAX_SOURCE_BYTES:
        tolerance.reject(fault(file.name, 1, f"is longer than {MAX_SOURCE_BYTES} bytes"))
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(data)
        lines = data.decode("utf-8").split("\n")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        tolerance.reject(fault(file.name, 1, f"is not Python that this version parses: {error}"))
        return
    module = file.name.removesuffix(".py").replace("/", ".")
    for number, (function, owner) in enumerate(_functions(tree), start=1):
        docstring = ast.get_docstring(function)
        if docstring:
            yield {
                "name": function.name,
                "owner": owner,
                "module": module,
                "summary": " ".join(docstring.split("\n\n")[0].split()),
                "docstring": docstring,
                "code": _code(function, lines),
                "statements": len(function.body) - 1,
                **place_fields(file.name, number),
            }


def _functions(tree: ast.Module) -> Iterator[tuple[Function, str]]:
    """Functions of the module and of its classes; not those inside functions."""
    for node in tree.body:
        if isinstance(node, Function):
            yield node, ""
        elif isinstance(node, ast.ClassDef):
            yield from ((inner, node.name) for inner in node.body if isinstance(inner, Function))


def _code(function: Function, lines: list[str]) -> str:
    """The source from ``def`` on, as written, without the lines of the docstring."""
    docstring, rest = function.body[0], function.body[1:]
    first, last = docstring.lineno, docstring.end_lineno or docstring.lineno
    shares_a_line = first == function.lineno or bool(rest and rest[0].lineno == last)
    if shares_a_line:
        bare = ast.parse(ast.unparse(function)).body[0]
        assert isinstance(bare, Function)  # noqa: S101 — what was a function is one
        bare.body = bare.body[1:] or [ast.Pass()]
        return ast.unparse(bare)
    end = function.end_lineno or function.lineno
    kept = [
        line
        for n, line in enumerate(lines, start=1)
        if function.lineno <= n <= end and not first <= n <= last
    ]
    return textwrap.dedent("\n".join(kept)).strip()
