"""One contestant of the mining benchmark in a process of its own, so that its peak memory is its own.

``python -m tests.bench.mine_contestants NAME FOLDER`` reads the material that ``mine.py`` wrote to the folder and
writes ``NAME.json`` there: seconds, and for each query the negatives that it chose.

All have the same vectors, so that what differs is the miner: ``Precomputed`` looks a text's vector up.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from icl_embed.config import NegativesConfig
from icl_embed.model.search import best_passages
from icl_embed.model.stored_search import embed_to, faiss_index, search_of
from icl_embed.pool.mine_file import mine_file
from icl_embed.pool.mining import Miner

WANTED, FIRST, STOP = 15, 10, 210
AT_ONCE = 64  # queries of hn_mine's search


class Precomputed:
    """An encoder, of ours and of sentence-transformers, that knows each text's vector by the number it ends with."""

    prompts = None
    device = torch.device("cpu")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dimension = np.load(folder / "queries.npy", mmap_mode="r").shape[1]

    def get_embedding_dimension(self) -> int:
        return self.dimension

    def encode_passages(self, texts: Any, **_: Any) -> np.ndarray:
        return self.taken("passages.npy", texts)

    def encode_queries(self, texts: Any, **_: Any) -> np.ndarray:
        return self.taken("queries.npy", texts)

    def taken(self, name: str, texts: Any) -> np.ndarray:
        """Mapped anew each time: pages that stay mapped would count as the miner's memory."""
        rows = np.load(self.folder / name, mmap_mode="r")
        return np.array(rows[[number_of(text) for text in texts]], np.float32)

    encode_document, encode_query = encode_passages, encode_queries

    def similarity(self, left: Any, right: Any) -> torch.Tensor:
        return torch.as_tensor(left) @ torch.as_tensor(right).T

    def similarity_pairwise(self, left: Any, right: Any) -> torch.Tensor:
        return (torch.as_tensor(left) * torch.as_tensor(right)).sum(dim=1)


def number_of(text: str) -> int:
    return int(text.rpartition("#")[2])


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ours(
    folder: Path, *, search: str = "exact", ceiling: float = 0.95, first: int = FIRST, sample: bool = True
) -> Any:
    """``icl-embed mine`` from the files to the file."""
    config = NegativesConfig(
        per_query=WANTED,
        methods=("dense",),
        rank_from=first,
        rank_to=STOP,
        max_positive_ratio=ceiling,
        search=search,
        faiss_from=1,
    )
    embed = embed_to(folder / "work", Precomputed(folder), {"model": "precomputed"})
    miner = Miner(config, 0, embed, search_of(config.search, 1, ["cpu"]), sample=sample)
    mine_file(folder / "rows.jsonl", folder / "mined.jsonl", miner, corpus=folder / "corpus.jsonl")
    return [row["neg"] for row in read_lines(folder / "mined.jsonl")]


def hn_mine(folder: Path) -> Any:
    """What FlagEmbedding's script does: FAISS's flat index, ranks 10 to 210, no threshold, 15 at random."""
    import faiss

    encoder, rows = Precomputed(folder), read_lines(folder / "rows.jsonl")
    corpus = sorted({row["text"] for row in read_lines(folder / "corpus.jsonl")})
    index = faiss.IndexFlatIP(encoder.dimension)
    index.add(encoder.encode_passages(corpus))
    asked, found = encoder.encode_queries([row["query"] for row in rows]), []
    for start in range(0, len(asked), AT_ONCE):
        found += index.search(asked[start : start + AT_ONCE], STOP)[1].tolist()
    rng, chosen = random.Random(0), []
    for row, ranked in zip(rows, found, strict=True):
        texts = [corpus[place] for place in ranked[FIRST:STOP]]
        left = [text for text in texts if text not in row["pos"] and text != row["query"]]
        chosen.append(rng.sample(left, min(WANTED, len(left))))
    return chosen


def sentence_transformers(folder: Path, **options: Any) -> Any:
    """``mine_hard_negatives``, with blocks of queries whose scores fit this machine."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    rows = read_lines(folder / "rows.jsonl")
    corpus = [row["text"] for row in read_lines(folder / "corpus.jsonl")]
    pairs = {"anchor": [row["query"] for row in rows], "positive": [row["pos"][0] for row in rows]}
    found = mine_hard_negatives(
        Dataset.from_dict(pairs),
        Precomputed(folder),
        corpus=corpus,
        num_negatives=WANTED,
        output_format="labeled-list",
        faiss_batch_size=AT_ONCE * 4,
        verbose=False,
        **options,
    )
    by_query: dict[str, list[str]] = {query: [] for query in pairs["anchor"]}
    texts, labels = found.column_names[1:3]
    for row in found:
        by_query[row["anchor"]] += [
            text for text, label in zip(row[texts], row[labels], strict=True) if not label
        ]
    return [by_query[query] for query in pairs["anchor"]]


def numpy_exact(folder: Path) -> Any:
    """The plain way: all vectors in memory, all scores of a block of queries, argpartition, sort."""
    passages, asked = np.load(folder / "passages.npy").astype(np.float32), np.load(folder / "queries.npy")
    for start in range(0, len(asked), AT_ONCE * 2):
        scores = asked[start : start + AT_ONCE * 2] @ passages.T
        best = np.argpartition(-scores, STOP, axis=1)[:, :STOP]
        np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1), 1)
    return []


def search_alone(folder: Path) -> Any:
    """Our search of float16 on disk, the recall of FAISS's cells against it, and what float16 costs."""
    asked = np.load(folder / "queries.npy")
    started = time.perf_counter()
    exact = best_passages(asked, np.load(folder / "halves.npy", mmap_mode="r"), top_k=STOP)
    exact_seconds, started = time.perf_counter() - started, time.perf_counter()
    find = faiss_index(np.load(folder / "halves.npy", mmap_mode="r"))
    built, started = time.perf_counter() - started, time.perf_counter()
    found = find(asked, STOP)
    searched = time.perf_counter() - started
    shared = [len(np.intersect1d(one, two)) for one, two in zip(exact.indices, found.indices, strict=True)]
    full = np.load(folder / "passages.npy", mmap_mode="r")
    errors = [
        scores - full[places] @ query
        for query, places, scores in zip(asked[:200], exact.indices[:200], exact.scores[:200], strict=True)
    ]
    return {
        "exact_seconds": round(exact_seconds, 2),
        "faiss_build_seconds": round(built, 2),
        "faiss_search_seconds": round(searched, 2),
        "faiss_recall_at_210": round(float(np.sum(shared)) / exact.indices.size, 4),
        "float16_error_rms": float(np.sqrt(np.mean(np.square(errors)))),
        "float16_error_max": float(np.max(np.abs(errors))),
    }


CONTESTANTS: dict[str, Callable[[Path], Any]] = {
    "ours": ours,
    "ours_faiss": lambda folder: ours(folder, search="faiss"),
    "ours_no_ceiling": lambda folder: ours(folder, ceiling=1000.0),
    "ours_top": lambda folder: ours(folder, first=0, sample=False),
    "hn_mine": hn_mine,
    "sentence_transformers": sentence_transformers,
    "sentence_transformers_margin": lambda folder: sentence_transformers(folder, relative_margin=0.05),
    "sentence_transformers_margin_10_210": lambda folder: sentence_transformers(
        folder, relative_margin=0.05, range_min=FIRST, range_max=STOP, sampling_strategy="random"
    ),
    "numpy": numpy_exact,
    "search_alone": search_alone,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CONTESTANTS)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.name.startswith("sentence"):
        import sentence_transformers.util  # noqa: F401 - importing is nobody's time
    started = time.perf_counter()
    chosen = CONTESTANTS[options.name](options.folder)
    result = {"seconds": round(time.perf_counter() - started, 2), "chosen": chosen}
    (options.folder / f"{options.name}.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
