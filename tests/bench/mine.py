"""Mining hard negatives: ours, FlagEmbedding's way and sentence-transformers' miner (``make bench-mine``).

Quality: real (query, positive) rows and the vectors of one embedder for all. For each query two false negatives
are planted: copies of its positive, one with every tenth word gone and other punctuation, one with a third of its
words gone and its halves swapped. Counted is how many of the mined negatives are planted copies of the query's own
positive, and how hard the others are (mean cosine with the query).

Size: made-up clustered unit vectors; each contestant from files to chosen texts in a process of its own, whose peak
memory the kernel counts. All get a tenth of the queries, ours all of them, too. Starting Python is nobody's time.

``hn_mine`` is FlagEmbedding's script by its rules on FAISS's flat index (the wheel does not hold the script).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from icl_embed.model.sentence_transformer import SentenceTransformerEncoder
from icl_embed.store.manifest import library_versions
from tests.bench.machine import describe_machine
from tests.bench.measured import run_measured
from tests.bench.mine_contestants import read_lines
from tests.bench.options import common_options, write_result
from tests.bench.rounds import Announcer

QUALITY = (
    "ours", "ours_top", "ours_no_ceiling", "hn_mine", "sentence_transformers", "sentence_transformers_margin",
    "sentence_transformers_margin_10_210",
)  # fmt: skip
ALL_QUERIES = ("ours", "ours_faiss")
TENTH = ("ours", "numpy", "hn_mine", "sentence_transformers_margin", "search_alone")  # the slow ones too
WORDS = (
    "amber birch cedar delta ember fjord grove heath islet jetty knoll larch maple nook oasis pine".split()
)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark and write its result."""
    parser = common_options(__doc__)
    parser.add_argument("--rows", type=Path, help='.jsonl of real rows {"query", "pos"}')
    parser.add_argument("--model", type=Path, help="folder of a sentence-transformers model")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--scratch", type=Path, help="a folder with room for 3 GB")
    options = parser.parse_args(arguments)
    if options.quick:
        options.queries, options.passages = 300, 3_000
    elif not (options.rows and options.model):
        raise SystemExit("give --rows and --model, or --quick")
    about, say = describe_machine(options.threads), Announcer()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        quality = measure_quality(Path(scratch) / "quality", options, say)
        size = measure_size(Path(scratch) / "size", options, say)
    setting = {
        "queries": options.queries,
        "passages": options.passages,
        "dimensions": 384,
        "negatives": 15,
        "ranks": "10-210",
    }
    result = {"quality": quality, "size": size, "setting": setting, **about, "libraries": library_versions()}
    return write_result(options, "mine", result)


def measure_quality(folder: Path, options: argparse.Namespace, say: Announcer) -> dict[str, Any]:
    """Shares of planted false negatives."""
    folder.mkdir(parents=True)
    queries, positives, others = quality_texts(options)
    planted = [[lightly(text, n), heavily(text, n)] for n, text in enumerate(positives)]
    passages = [*positives, *(text for pair in planted for text in pair), *others]
    if options.quick:
        vectors, asked = hashed(passages), hashed(queries)
    else:
        encoder = SentenceTransformerEncoder.load(options.model, device="cpu")
        vectors = encoder.encode_passages(passages)
        asked = encoder.encode_queries(queries, instruction="")
    vectors, asked = unit(vectors), unit(asked)
    numbered = [f"{text} #{n}" for n, text in enumerate(passages)]
    write_material(folder, [f"{text} #{n}" for n, text in enumerate(queries)], numbered, asked, vectors)
    number = {text: n for n, text in enumerate(numbered)}
    count, found = len(queries), {}
    for name in QUALITY:
        chosen = contest(name, folder, options)["chosen"]
        rows = [(n, number[text]) for n, texts in enumerate(chosen) for text in texts]
        false = [count + 2 * n <= place < count + 2 * n + 2 for n, place in rows]
        cosines = [float(asked[n] @ vectors[place]) for n, place in rows]
        found[name] = {
            "negatives": len(rows),
            "planted_share": round(float(np.mean(false)), 4),
            "planted_taken_of_all_planted": round(sum(false) / (2 * count), 4),
            "mean_cosine_of_the_others": round(
                float(np.mean([c for c, bad in zip(cosines, false, strict=True) if not bad])), 4
            ),
        }
        say(f"{name}: {found[name]}")
    return {"queries": count, "passages": len(passages), "planted": 2 * count, **found}


def measure_size(folder: Path, options: argparse.Namespace, say: Announcer) -> dict[str, Any]:
    """Time and peak memory."""
    found: dict[str, Any] = {}
    for num_queries, names in ((options.queries, ALL_QUERIES), (options.queries // 10, TENTH)):
        folder.mkdir(parents=True)
        make_large(folder, num_queries, options.passages)
        mine = found[f"{num_queries} queries"] = {}
        for name in names:
            measured = contest(name, folder, options)
            mine[name] = {
                "seconds": measured["seconds"],
                "peak_mib": measured["peak_mib"],
                **(measured["chosen"] if name == "search_alone" else {}),
            }
            say(f"{num_queries} queries, {name}: {mine[name]}")
        shutil.rmtree(folder)
    return found


def contest(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One contestant in its process."""
    shutil.rmtree(folder / "work", ignore_errors=True)
    environment = {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tests.bench.mine_contestants", name, str(folder)]
    peak = run_measured(command, environment, folder / f"{name}.log")
    result: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return {**result, "peak_mib": round(peak, 1)}


def quality_texts(options: argparse.Namespace) -> tuple[list[str], list[str], list[str]]:
    """Queries, their positives, and passages of other queries."""
    if options.quick:
        rng = random.Random(0)
        texts = [" ".join(rng.choices(WORDS, k=24)) + f" {n}" for n in range(600)]
        return [" ".join(text.split()[:8]) for text in texts[:200]], texts[:200], texts[200:]
    rows = {row["pos"][0]: row["query"] for row in read_lines(options.rows)}
    kept = [(query, text) for text, query in rows.items() if len(text.split()) >= 12]
    random.Random(0).shuffle(kept)
    return [q for q, _ in kept[:400]], [text for _, text in kept[:400]], [text for _, text in kept[400:1200]]


def lightly(text: str, seed: int) -> str:
    """A copy with every tenth word gone and other punctuation."""
    words = [word for n, word in enumerate(text.replace(",", " ;").split()) if (n + seed) % 10]
    return " ".join(words) + " !"


def heavily(text: str, seed: int) -> str:
    """A copy with a third of its words gone, its second half first."""
    words = [word for n, word in enumerate(text.split()) if (n + seed) % 3]
    return " ".join([*words[len(words) // 2 :], *words[: len(words) // 2]])


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def hashed(texts: list[str]) -> np.ndarray:
    """Bags of words, for a quick look."""
    found = np.full((len(texts), 384), 1e-3, np.float32)
    for row, text in enumerate(texts):
        for word in text.split():
            found[row, sum(map(ord, word)) % 384] += 1
    return found


def write_material(
    folder: Path, queries: list[str], passages: list[str], asked: np.ndarray, vectors: np.ndarray
) -> None:
    """Files of the contestants: query i's positive is passage i."""
    rows = ({"query": query, "pos": [text]} for query, text in zip(queries, passages, strict=False))
    for name, lines in (("rows", rows), ("corpus", ({"text": text} for text in passages))):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as handle:
            handle.writelines(json.dumps(line) + "\n" for line in lines)
    np.save(folder / "queries.npy", asked)
    np.save(folder / "passages.npy", vectors)


def make_large(folder: Path, num_queries: int, num_passages: int) -> None:
    """Clustered unit vectors, written a block at a time: this process shall not need the memory either."""
    rng, block = np.random.default_rng(0), 50_000
    centres = rng.normal(size=(max(10, num_passages // 500), 384)).astype(np.float32)
    full = np.lib.format.open_memmap(folder / "passages.npy", "w+", np.float32, (num_passages, 384))
    halves = np.lib.format.open_memmap(folder / "halves.npy", "w+", np.float16, (num_passages, 384))
    for start in range(0, num_passages, block):
        stop = min(start + block, num_passages)
        near = centres[rng.integers(0, len(centres), stop - start)]
        full[start:stop] = unit(near + 1.2 * rng.standard_normal(near.shape, np.float32))
        halves[start:stop] = full[start:stop]
    asked = unit(full[:num_queries] + 0.04 * rng.standard_normal((num_queries, 384), np.float32))
    np.save(folder / "queries.npy", asked)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as corpus:
        for n in range(num_passages):
            words = " ".join(WORDS[(n * 7919 >> shift) % 16] for shift in range(12))
            corpus.write(json.dumps({"text": f"{words} {n} #{n}"}) + "\n")
            if n < num_queries:
                row = {"query": f"query {n} #{n}", "pos": [f"{words} {n} #{n}"]}
                with (folder / "rows.jsonl").open("a", encoding="utf-8") as rows:
                    rows.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
