"""Tiny mirrors: sets of every kind in our folder format, with manifests that are true."""

import gzip
import hashlib
import json

from tests.icl_embed.evaluation.folders import sentence

TASKS = {
    "retrieval": "SciFact",
    "reranking": "AskUbuntuDupQuestions",
    "classification": "Banking77Classification",
    "clustering": "TwentyNewsgroupsClustering",
    "sts": "STSBenchmark",
    "pair_classification": "TwitterSemEval2015",
}
"""An official task of each kind."""

LABELS = ("card_arrival", "lost_card", "exchange_rate")
SIZE = 24
STARTS = {"train": 1000, "test": 5000}


def write_set(mirror, kind, *, name=None, task="", zipped=True, splits=("train", "test"), **manifest):
    """Write one set; returns its folder. ``task`` None makes it a local set."""
    folder = mirror / (name or f"toy-{kind}")
    folder.mkdir(parents=True)
    files = {}
    for stem, lines in content_of(kind, splits).items():
        path = folder / (f"{stem}.gz" if zipped else stem)
        path.parent.mkdir(exist_ok=True)
        data = "".join(f"{line}\n" for line in lines).encode()
        path.write_bytes(gzip.compress(data, mtime=0) if zipped else data)
        files[f"{stem}.gz"] = {
            "rows": len(lines) - stem.endswith(".tsv"),
            "sha256": hashlib.sha256(gzip.compress(data, mtime=0)).hexdigest(),
            "sha256_uncompressed": hashlib.sha256(data).hexdigest(),
        }
    official = None if task is None else {"task": task or TASKS[kind], "equality": "exact"}
    facts = {"task_type": kind, "mteb": official, "files": files, **manifest}
    (folder / "manifest.json").write_text(json.dumps(facts))
    return folder


def content_of(kind, splits):
    """File name → lines."""
    if kind == "retrieval":
        return _retrieval(splits)
    rows = {"reranking": _reranking, "sts": _pairs, "pair_classification": _labelled_pairs}.get(
        kind, _labelled
    )
    return {
        f"{split}.jsonl": [json.dumps(rows(STARTS[split] + n, n)) for n in range(SIZE)] for split in splits
    }


def _retrieval(splits):
    numbers = [STARTS[split] + n for split in splits for n in range(SIZE)]
    passages = [{"_id": f"p{n}", "title": f"title {n % 3}", "text": sentence(n)} for n in numbers]
    queries = [{"_id": f"q{n}", "text": sentence(n, 3)} for n in numbers]
    judged = {
        f"qrels/{split}.tsv": ["query-id\tcorpus-id\tscore"]
        + [f"q{STARTS[split] + n}\tp{STARTS[split] + n}\t1" for n in range(SIZE)]
        for split in splits
    }
    as_lines = {"corpus.jsonl": map(json.dumps, passages), "queries.jsonl": map(json.dumps, queries)}
    return {name: list(lines) for name, lines in as_lines.items()} | judged


def _reranking(seed, _):
    negatives = [sentence(seed + k) for k in (1, 2, 3)]
    return {"query": sentence(seed, 3), "positive": [sentence(seed)], "negative": negatives}


def _pairs(seed, number):
    return {"sentence1": sentence(seed), "sentence2": sentence(seed + number % 5, 4), "score": number % 5}


def _labelled_pairs(seed, number):
    return {"sentence1": sentence(seed), "sentence2": sentence(seed + number % 2, 4), "label": 1 - number % 2}


def _labelled(seed, number):
    label = number % len(LABELS)
    return {"text": f"{LABELS[label]} {sentence(seed)}", "label": label, "label_text": LABELS[label]}


def rewrite(folder, name, change):
    """Change the lines of a plain file, and let the manifest forget what it promised of it."""
    path = folder / name
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"].pop(f"{name}.gz", None)
    (folder / "manifest.json").write_text(json.dumps(manifest))
