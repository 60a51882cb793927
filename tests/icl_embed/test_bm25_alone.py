"""A library that happens to be installed is not started because we rank by BM25."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
import icl_embed.bm25
assert "jax" not in sys.modules, "JAX was imported"
import jax  # whoever wants it still gets it
assert jax.was_started
import bm25s
assert not bm25s.selection_np.JAX_IS_AVAILABLE
"""


def test_jax_is_not_started(tmp_path: Path) -> None:
    package = tmp_path / "jax"
    package.mkdir()
    (package / "__init__.py").write_text("was_started = True\n")
    (package / "lax.py").write_text("raise RuntimeError('no memory left on the GPU')\n")
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}", "PATH": ""}
    subprocess.run([sys.executable, "-c", SCRIPT], env=environment, check=True, timeout=60)
