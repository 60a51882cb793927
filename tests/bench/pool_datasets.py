"""The pool's steps as a competent user of ``datasets`` writes them: batched ``map`` and ``filter``, several processes.

What only ours does is left out: the database, its lineage, weights, relations of repeated queries, the comparison of
examples with evaluated texts. So what is measured is a lower bound of the peer's time.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import datasets
import xxhash
from datasketch import MinHash, MinHashLSH

NGRAM, SHINGLE, PERMUTATIONS, THRESHOLD, EXAMPLES = 13, 5, 64, 0.9, 512
WORD = re.compile(r"\w+")
BATCH = 1000
Batch = dict[str, list[Any]]
evaluated_keys: set[int] = set()  # inherited by the processes of map, which are forked
evaluated_ngrams: set[int] = set()


def build_with_datasets(data: Path, scratch: Path, processes: int) -> dict[str, Any]:
    """Do all steps; say how many rows are left."""
    datasets.disable_progress_bars()
    loaded = {
        name: datasets.Dataset.from_parquet(
            str(data / name / "rows.parquet"), cache_dir=str(scratch / "cache")
        )
        for name in ("answers", "topics")
    }
    for rows in loaded.values():
        _remember_evaluated(rows.filter(_is_test, batched=True, num_proc=processes))
    counts = {}
    passages: dict[int, str] = {}
    for name, rows in loaded.items():
        has_labels = name == "topics"
        marked = rows.filter(_is_train, batched=True, num_proc=processes).map(
            _mark, batched=True, batch_size=BATCH, num_proc=processes, fn_kwargs={"has_labels": has_labels}
        )
        clean = marked.filter(_is_clean, batched=True, num_proc=processes)
        single = clean.select(_first_of_each(clean["same"]))
        kept = single.select(_without_near_duplicates(single))
        for batch in kept.select_columns(["positives", "negatives", "label"]).iter(BATCH):
            _add_passages(passages, batch, has_labels)
        kept.remove_columns(["same", "clean", "signature"]).to_parquet(scratch / f"{name}.parquet")
        kept.select(range(min(EXAMPLES, len(kept)))).to_parquet(scratch / f"{name}-examples.parquet")
        counts[name] = len(kept)
    found = datasets.Dataset.from_dict({"passage": list(passages.values())})
    found.to_parquet(scratch / "passages.parquet")
    return {"pairs": counts, "passages": len(found)}


def _key(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _is_test(batch: Batch) -> list[bool]:
    return [split != "train" for split in batch["split"]]


def _is_train(batch: Batch) -> list[bool]:
    return [split == "train" for split in batch["split"]]


def _ngrams(key: str) -> list[int]:
    words = WORD.findall(key)
    return [hash(" ".join(words[i : i + NGRAM])) for i in range(len(words) - NGRAM + 1)]


def _remember_evaluated(rows: datasets.Dataset) -> None:
    for batch in rows.iter(BATCH):
        for query, positives, negatives in zip(
            batch["query"], batch["positives"], batch["negatives"], strict=True
        ):
            for key in map(_key, [query, *(positives or []), *(negatives or [])]):
                evaluated_keys.add(hash(key))
                evaluated_ngrams.update(_ngrams(key))


def _is_evaluated(key: str) -> bool:
    return hash(key) in evaluated_keys or not evaluated_ngrams.isdisjoint(_ngrams(key))


def _mark(batch: Batch, has_labels: bool) -> Batch:
    """Clean the texts, drop bad negatives, and add what the next steps ask for."""
    found: Batch = {name: [] for name in ("query", "positives", "negatives", "same", "clean")}
    keys = []
    for given, positives, negatives, label in zip(
        batch["query"], batch["positives"], batch["negatives"], batch["label"], strict=True
    ):
        query = unicodedata.normalize("NFC", given).strip()
        sides = [unicodedata.normalize("NFC", text).strip() for text in positives or []]
        key, side_keys = _key(query), [_key(text) for text in sides]
        good, seen = [], {key, *side_keys}
        for text in negatives or []:
            stored = unicodedata.normalize("NFC", text).strip()
            other = _key(stored)
            if stored and other not in seen and not _is_evaluated(other):
                good.append(stored)
            seen.add(other)
        is_full = bool(label) if has_labels else bool(sides and sides[0])
        is_clean = len(query) >= 3 and is_full and not any(map(_is_evaluated, [key, *side_keys]))
        keys.append(key)
        found["query"].append(query)
        found["positives"].append(sides)
        found["negatives"].append(good)
        same = key if has_labels else "\0".join([key, *side_keys])
        found["same"].append(xxhash.xxh64_intdigest(same.encode()) >> 1)
        found["clean"].append(is_clean)
    shingles = [
        {key[i : i + SHINGLE].encode() for i in range(max(1, len(key) - SHINGLE + 1))} for key in keys
    ]
    hashes = MinHash.bulk(shingles, num_perm=PERMUTATIONS, seed=1, hashfunc=xxhash.xxh32_intdigest)
    return found | {"signature": [one.hashvalues for one in hashes]}


def _is_clean(batch: Batch) -> list[bool]:
    return list(batch["clean"])


def _first_of_each(names: Any) -> list[int]:
    first: dict[int, int] = {}
    for row, name in enumerate(names):
        first.setdefault(name, row)
    return list(first.values())


def _without_near_duplicates(rows: datasets.Dataset) -> list[int]:
    """Rows whose query has no earlier near-duplicate, as the signatures estimate it."""
    index = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    kept, row = [], 0
    for batch in rows.select_columns(["signature"]).with_format("numpy").iter(BATCH):
        for values in batch["signature"]:
            signature = MinHash(
                num_perm=PERMUTATIONS, seed=1, hashvalues=values.astype("uint32"), scheme="affine32"
            )
            if not index.query(signature):
                index.insert(row, signature, check_duplication=False)
                kept.append(row)
            row += 1
    return kept


def _add_passages(passages: dict[int, str], batch: Batch, has_labels: bool) -> None:
    if has_labels:
        passages.update((hash(label), label) for label in batch["label"])
        return
    for texts in [*batch["positives"], *batch["negatives"]]:
        for text in texts:
            passages.setdefault(hash(_key(text)), text)
