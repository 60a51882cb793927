"""The house rules that a machine can check: who may import whom, one door per library, sizes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for room in ("flows", "tasks", "icl_embed") for path in (ROOT / room).rglob("*.py"))

# room -> rooms it may import besides itself and the foundation
FOUNDATION = {"errors", "config", "examples", "store", "prompts", "bm25", "progress", "texts"}
ALLOWED = {
    "errors": set(),
    "examples": set(),
    "bm25": {"errors"},
    "config": {"errors"},
    "prompts": {"config", "errors", "examples"},
    "store": {"errors"},
    "sources": FOUNDATION,
    "corpus": FOUNDATION | {"sources"},
    "pool": FOUNDATION | {"corpus", "model"},
    "engines": FOUNDATION,
    "model": FOUNDATION | {"sources", "engines"},
    "launch": FOUNDATION | {"engines"},
    "teacher": FOUNDATION,
    "rerank": FOUNDATION | {"model", "teacher", "engines"},
    "few_shot": FOUNDATION | {"model", "pool"},
    "train": FOUNDATION | {"model", "launch", "teacher", "rerank"},
    "evaluation": FOUNDATION | {"model", "pool", "sources", "corpus", "few_shot", "rerank", "engines"},
    "experiments": FOUNDATION | {"model", "pool", "corpus", "few_shot", "evaluation"},
    "report": FOUNDATION | {"model", "train", "few_shot", "evaluation", "experiments"},
    "export": FOUNDATION | {"model", "sources", "pool", "rerank", "few_shot", "evaluation", "report"},
}
EVERYTHING_BELOW = set(ALLOWED)
ALLOWED["pipeline"] = EVERYTHING_BELOW
ALLOWED["cli"] = EVERYTHING_BELOW | {"pipeline"}
DOORS = {
    "prefect": ("flows/", "tasks/"),
    "duckdb": ("icl_embed/pool/", "icl_embed/evaluation/results/database.py"),
    "deepspeed": ("icl_embed/train/engine.py",),
    "faiss": ("icl_embed/model/stored_search.py",),
    "mteb": ("icl_embed/evaluation/mteb/",),
    "pytrec_eval": ("icl_embed/evaluation/air_bench/ranking.py",),
    "peft": ("icl_embed/model/lora.py", "icl_embed/rerank/", "icl_embed/train/"),
    "pypi_simple": ("icl_embed/sources/",),
    "huggingface_hub": ("icl_embed/sources/hub.py",),
    "ray": ("icl_embed/engines/ray_cluster.py", "icl_embed/launch/ray_nodes.py"),
    "bm25s": ("icl_embed/bm25.py",),
}
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
MAX_FILE_LINES = 600  # one idea per file, as long as the idea is
MAX_FUNCTION_LINES = 60
MIN_FILE_LINES = 40
SMALL_FOR_A_REASON = {
    "flows/ablations.py": "one file per flow",
    "flows/build_pool.py": "one file per flow",
    "flows/full_pipeline.py": "one file per flow, and the one to read first",
    "flows/train_embedder.py": "one file per flow",
    "icl_embed/pipeline/stages/public_embedder.py": "one file per stage",
    "icl_embed/model/cpu/heap.py": "the only calls into the C library",
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_point_downwards(path: Path) -> None:
    name = relative(path)
    for module in imports(path):
        if name.startswith("icl_embed/"):
            assert not module.startswith(("flows", "tasks")), f"{name} imports {module}"
            room = name.removeprefix("icl_embed/").split("/")[0].removesuffix(".py")
            target = room_of(module) if module.startswith("icl_embed.") else ""
            if room in ALLOWED and target in ALLOWED and target != room:
                assert target in ALLOWED[room], f"{name} ({room}) imports {module} ({target})"
        if name.startswith("tasks/"):
            assert not module.startswith("flows"), f"{name} imports {module}"


@pytest.mark.parametrize("library", DOORS)
def test_each_foreign_library_has_one_door(library: str) -> None:
    users = [relative(path) for path in FILES if any(m.split(".")[0] == library for m in imports(path))]
    assert users, f"nobody imports {library}: drop it from DOORS and from pyproject.toml"
    outside = [name for name in users if not name.startswith(DOORS[library])]
    assert not outside, f"{library} is imported outside its door: {outside}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


def test_an_idea_of_a_few_lines_lives_beside_its_neighbour() -> None:
    small = {
        relative(path)
        for path in FILES
        if path.name != "__init__.py" and len(path.read_text(encoding="utf-8").splitlines()) < MIN_FILE_LINES
    }
    assert small == set(SMALL_FOR_A_REASON)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_names_say_something(path: Path) -> None:
    assert path.stem not in BANNED_NAMES


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_nothing_unpickles_or_trusts_remote_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in {"pickle.load", "pickle.loads", "torch.load", "eval", "exec"}, name
            for keyword in node.keywords:
                if keyword.arg == "trust_remote_code":
                    assert ast.unparse(keyword.value) == "False"
                if keyword.arg == "shell":
                    assert ast.unparse(keyword.value) == "False"


SECTIONS = ("Parameters", "Attributes", "Returns", "Raises")


def sections_of(docstring: str) -> dict[str, list[str]]:
    """Title -> its lines at the first level of indentation."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in docstring.splitlines():
        indent = len(line) - len(line.lstrip())
        if re.fullmatch(r"[A-Z][a-z]+:?", line):  # a word alone on its line is a title
            title, found[line] = line, []
        elif title and indent == 4:
            found[title].append(line.strip())
        elif title and line and not indent:
            title = ""
    return found


def names_of(node: ast.AST) -> set[str]:
    """Parameters of a function; attributes of a class, inherited ones aside."""
    if isinstance(node, ast.ClassDef):
        fields = {
            n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
        }
        methods = {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
        own = {
            n.attr
            for n in ast.walk(node)
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "self"
        }
        made = [names_of(n) for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        return fields.union(methods, own, *made)
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    given = node.args
    return {
        one.arg
        for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
        if one
    }


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_docstrings_speak_one_dialect(path: Path) -> None:
    """Sections have one of four titles, and name only parameters and attributes that there are."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for title, lines in sections_of(ast.get_docstring(node) or "").items():
            assert title in SECTIONS, (
                f"{node.name}: a section {title!r}; expected one of {', '.join(SECTIONS)}"
            )
            assert lines, f"{node.name}: nothing under {title}"
            if title in ("Parameters", "Attributes"):
                named = {name.strip() for line in lines for name in line.partition(":")[0].split(",")}
                unknown = {name for name in named if name.isidentifier()} - names_of(node)
                assert not unknown, (
                    f"{node.name}: {title} names {', '.join(sorted(unknown))}, which it has not"
                )
