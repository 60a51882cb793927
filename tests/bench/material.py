"""The texts of the benchmarks: real ones, from data cards that anyone can fetch, or made-up ones for a quick look.

Queries are descriptions of real vulnerabilities with the weakness each is an example of (card ``cwe-examples``);
passages are those weaknesses and the code of SymPy's functions (card ``sympy-code``), a few words to many pages.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icl_embed.pipeline.build import build
from icl_embed.pipeline.run import Run, open_run
from tests.bench.model_folder import dress
from tests.bench.workload import Workload
from tests.tiny_models import WORDS, build_model

EVERYTHING = (
    "model.num_layers=0",
    "data.max_train_rows=100000",
    "data.max_test_queries=100000",
    "data.max_test_passages=100000",
)
PREFIX_TOKENS = 384
NUM_EXAMPLES = 5  # the most that the paper shows
SHORTEST_QUERY = 21  # tokens; from here up the card's queries average about 29, 32 with <response> and EOS


@dataclass(frozen=True)
class Material:
    """What a benchmark works on.

    Attributes
        model: the folder that all systems load.
        few, passages: the work that is timed; zero-shot queries are those of ``few``.
        equality: the work whose vectors are compared, by name.
    """

    model: Path
    few: Workload
    passages: Workload
    equality: dict[str, Workload]


def real_material(
    folder: Path, *, layers: int, overrides: Sequence[str], num_queries: int, num_passages: int
) -> Material:
    """Real texts and the demo's base model, fetched if they are not in the store yet."""
    run = open_everything(overrides)
    model = dress(build(run, run.keys.base_model).path, folder / "model", layers=layers)
    pairs, weaknesses = read_card(run, "cwe-examples")
    code_pairs, code = read_card(run, "sympy-code")
    count = Count(model)
    rng = random.Random("bench")
    rng.shuffle(pairs)
    rng.shuffle(code_pairs)
    instruction = run.card("cwe-examples").instruction
    head = 2 + count(f"{instruction}\n")
    examples = choose_examples(pairs[:200], PREFIX_TOKENS - head, head, count)
    rest = [query for query, _ in pairs[200:]]
    long_enough = [query for query in rest if count(query) >= SHORTEST_QUERY]
    mixed = [*rng.sample(code, len(weaknesses)), *weaknesses]
    rng.shuffle(mixed)
    code_task = run.card("sympy-code").instruction
    code_examples = choose_examples(code_pairs[:200], PREFIX_TOKENS - head, head, count)
    return Material(
        model,
        Workload(tuple(long_enough[:num_queries]), instruction, examples),
        Workload(tuple(mixed[:num_passages])),
        {
            "zero-shot queries": Workload(tuple(rest[:200]), instruction),
            "few-shot queries": Workload(tuple(rest[:200]), instruction, examples),
            "few-shot queries of another task": Workload(
                tuple(query for query, _ in code_pairs[200:300]), code_task, code_examples
            ),
            "long queries": Workload(
                tuple(mixed[200:300]), code_task
            ),  # some are cut: FlagEmbedding cuts earlier
            "passages": Workload(tuple(mixed[:200])),
        },
    )


def quick_material(folder: Path, *, num_queries: int, num_passages: int) -> Material:
    """A tiny random model and made-up texts: shows that the benchmark works, measures nothing."""
    model = dress(build_model(folder / "base", layers=2), folder / "model")
    rng = random.Random("bench")

    def text(longest: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(3, longest)))

    examples = tuple((text(8), text(20)) for _ in range(2))
    few = Workload(tuple(text(10) for _ in range(num_queries)), "find it", examples)
    passages = Workload(tuple(text(60) for _ in range(num_passages)))
    zero = Workload(few.texts, few.instruction)
    equality = {"zero-shot queries": zero, "few-shot queries": few, "passages": passages}
    return Material(model, few, passages, equality)


def open_everything(overrides: Sequence[str]) -> Run:
    """A run of the demo preset with the whole model and all rows of its data sets."""
    return open_run("demo", [*EVERYTHING, *overrides])


def read_card(run: Run, name: str) -> tuple[list[tuple[str, str]], list[str]]:
    """(query, passage) pairs of a retrieval card, and the texts of its corpus, in the card's order."""
    from pyarrow import parquet

    folder = build(run, run.keys.datasets[name]).path
    rows = parquet.read_table(folder / "rows.parquet").to_pylist()
    corpus = parquet.read_table(folder / "corpus.parquet").to_pylist()
    return [(row["query"], row["positives"][0]) for row in rows], sorted({row["text"] for row in corpus})


def choose_examples(
    pairs: Sequence[tuple[str, str]], tokens: int, head: int, count: Count
) -> tuple[tuple[str, str], ...]:
    """The five pairs whose prompts come nearest to a fifth of ``tokens`` each.

    Parameters
        head: tokens of the instruction, which every example repeats.
    """

    def distance(pair: tuple[str, str]) -> float:
        length = head + count(pair[0]) + count(pair[1]) + 3  # line end, <response>, blank line
        return abs(length - tokens / NUM_EXAMPLES)

    return tuple(sorted(pairs, key=distance)[:NUM_EXAMPLES])


class Count:
    """Counts the tokens of a text without the tokenizer's special ones."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def __call__(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])
