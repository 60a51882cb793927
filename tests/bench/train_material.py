"""Training rows of the benchmark, for both sides: the same queries, positives and negatives.

Two data sets, because what batches save depends on how lengths differ: CWE's descriptions are all of a sentence or
two, SymPy's functions have a few lines or a few pages. Negatives are other passages of the same data set; for speed
it does not matter how hard they are.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from icl_embed.pipeline.build import build
from tests.bench.material import open_everything, read_card
from tests.bench.model_folder import dress
from tests.tiny_models import WORDS, build_model


@dataclass(frozen=True)
class TrainingData:
    """Rows of one data set: (query, positive, negatives)."""

    name: str
    instruction: str
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]

    def draw(self, count: int, number: int) -> TrainingData:
        """``count`` other rows for every number: the rows of one round."""
        rows = random.Random(f"bench:{self.name}:{number}").sample(self.rows, count)
        return TrainingData(self.name, self.instruction, tuple(rows))

    def write_parquet(self, path: Path) -> Path:
        """As our mining stage writes them."""
        records = [
            {
                "pair_id": f"{self.name}-{number}",
                "dataset": self.name,
                "kind": "retrieval",
                "instruction": self.instruction,
                "query": query,
                "positive": positive,
                "negatives": list(negatives),
                "label": None,
                "response": positive,
                "positive_score": None,
                "negative_scores": None,
                "weight": 1.0,
            }
            for number, (query, positive, negatives) in enumerate(self.rows)
        ]
        pq.write_table(pa.Table.from_pylist(records), path)
        return path

    def write_jsonl(self, path: Path) -> Path:
        """As FlagEmbedding reads them."""
        lines = (
            json.dumps(
                {"query": query, "pos": [positive], "neg": list(negatives), "prompt": self.instruction}
            )
            for query, positive, negatives in self.rows
        )
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path


def real_training(
    folder: Path, *, layers: int, overrides: Sequence[str], num_negatives: int
) -> tuple[Path, list[TrainingData]]:
    """The model folder and both data sets, fetched if they are not in the store yet."""
    run = open_everything(overrides)
    model = dress(build(run, run.keys.base_model).path, folder / "model", layers=layers)
    return model, [
        _with_negatives(name, run.card(name).instruction, *read_card(run, name), num_negatives)
        for name in ("cwe-examples", "sympy-code")
    ]


def quick_training(folder: Path, *, num_negatives: int) -> tuple[Path, list[TrainingData]]:
    """A tiny random model and made-up rows."""
    model = dress(build_model(folder / "base", layers=2), folder / "model")
    rng = random.Random("bench")
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(3, 20))) for _ in range(400)]
    pairs = list(zip(texts[:200], texts[200:], strict=True))
    return model, [_with_negatives("made-up", "find it", pairs, texts[200:], num_negatives)]


def _with_negatives(
    name: str, instruction: str, pairs: list[tuple[str, str]], passages: list[str], count: int
) -> TrainingData:
    rng = random.Random(f"bench:{name}")
    rows = []
    for query, positive in pairs:
        others = [passage for passage in rng.sample(passages, count + 1) if passage != positive]
        rows.append((query, positive, tuple(others[:count])))
    return TrainingData(name, instruction, tuple(rows))
