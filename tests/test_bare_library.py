"""The package without its extras: a model can be used, and what needs more says which extra brings it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from flows.command_line import EXTRAS, extra_of

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Everything that only an extra brings cannot be imported, as in a bare environment.
BARE = f"""
import sys
sys.modules |= dict.fromkeys({sorted(one for modules in EXTRAS.values() for one in modules)})
"""
USE = """
import numpy as np
from icl_embed import CompiledTask, Embedder, Example, Reranker
embedder = Embedder.load(sys.argv[1], device="cpu", dtype="float32")
task = embedder.compile_task("find it", [Example("a cat", "an animal")])
print(embedder.search(["a dog"], ["a dog", "the moon"], task=task).indices.shape)
"""


def run(code: str, *arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_model_is_used_without_any_extra(tiny_model: Path) -> None:
    done = run(BARE + USE, str(tiny_model))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "(1, 2)"


def test_a_command_without_its_extra_says_which_one_it_is(tmp_path: Path) -> None:
    command = "from flows.command_line import main; main()"
    told = run(BARE + command, "eval", "run", "--tasks", "SciFact", "--store", str(tmp_path))
    assert told.returncode == 2
    assert re.search(r"pip install 'icl-embed\[(eval|pipeline)\]'", told.stderr)
    assert "Traceback" not in told.stderr
    assert run(BARE + command, "--help").returncode == 0


def test_every_extra_brings_what_the_hint_says() -> None:
    names = {
        extra: {re.split(r"[<>=\[]", one)[0].lower().replace("-", "_") for one in found}
        for extra, found in PROJECT["optional-dependencies"].items()
    }
    renamed = {"pytrec_eval": "pytrec_eval_terrier"}
    for extra, modules in EXTRAS.items():
        assert {renamed.get(one, one) for one in modules} <= names[extra]
    assert extra_of("prefect.flows") == "pipeline" and extra_of("nothing") == ""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_bare_wheel_in_a_fresh_environment_embeds_a_text(tmp_path: Path, tiny_model: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    venv.create(tmp_path / "fresh", with_pip=True)
    python = str(tmp_path / "fresh" / "bin" / "python")
    wheel = str(next(tmp_path.glob("icl_embed-*.whl")))
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([python, *pip[1:], "install", *constraints, wheel], check=True)
    installed = subprocess.run(
        [python, "-m", "pip", "list"], capture_output=True, text=True, check=True
    ).stdout
    for name in ("prefect", "deepspeed", "mteb", "duckdb"):
        assert not re.search(rf"(?m)^{name} ", installed)
    done = subprocess.run(
        [python, "-c", f"import sys\n{USE}", str(tiny_model)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shown = subprocess.run(
        [python, "-m", "flows.command_line"], cwd=tmp_path, capture_output=True, check=False
    )
    assert shown.returncode == 0
