"""Repositories in the form of cfli/bge-full-data and cfli/bge-e5data, and FlagEmbedding's eight example files, small."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.icl_embed.sources.hub_site import shards

FORMS = {
    "normal": {"pos": ["an answer to {n}"], "neg": ["off topic {n}", "elsewhere {n}"]},
    "only_1neg": {"pos": ["it follows from {n}"], "neg": ["it contradicts {n}"]},
    "symmetric_sts": {"pos": ["nearly the same as {n}"], "neg": [f"farther {k}: {{n}}" for k in range(20)]},
    "symmetric_class": {"pos": ["This review has {c} stars."], "neg": ["This review has {d} stars."]},
    "symmetric_clustering": {"pos": ["a title near {n}"], "neg": ["a title far from {n}"]},
}
PROMPTS = {
    "normal": "Given a question, retrieve passages that answer it.",
    "only_1neg": "Retrieve semantically similar text.",
    "symmetric_sts": "Retrieve semantically similar text.",
    "symmetric_class": "Classify the review.",
    "symmetric_clustering": "Identify the category of papers.",
}
FULL_DATA = {
    "normal": (
        "eli5 hotpotqa fever msmarco_passage msmarco_document nq squad trivia quora arguana fiqa SciDocsRR "
        "StackOverflowDupQuestions"
    ).split(),
    "only_1neg": ["nli"],
    "symmetric_sts": "sts12 sts22 stsbenchmark".split(),
    "symmetric_class": (
        "amazon_reviews_classification amazon_counterfactual_classification banking_classification "
        "emotion_classification tweet_sentiment_classification mtop_intent_classification imdb_classification "
        "toxic_conversations_classification"
    ).split(),
    "symmetric_clustering": (
        "arxiv_title arXiv_abstract biorxiv_title biorxiv_abstract medrxiv_title medrxiv_abstract reddit "
        "stackexchange twenty_news_groups"
    ).split(),
}
"""34 splits: the names that were seen, and likely ones for the others."""


def row(kind: str, number: int, *, name: str = "", **more: Any) -> dict[str, Any]:
    """One published row: lists of scores are there, and empty."""
    words = {"n": f"{name} {number}", "c": number % 5, "d": (number + 1) % 5}
    texts = {side: [text.format(**words) for text in FORMS[kind][side]] for side in ("pos", "neg")}
    category = f"cs.{number % 3} math.{number % 3}" if kind == "symmetric_clustering" else ""
    said = {"type": kind, "prompt": PROMPTS[kind], "category": category}
    query = f"text {number} of {name or kind}"
    return {"query": query, **texts, **said, "pos_scores": [], "neg_scores": [], **more}


def full_data(rows: int = 12) -> dict[str, bytes]:
    """The files of bge-full-data: 34 splits, some of several shards, and what else lies about."""
    files = {"README.md": b"# bge-full-data", ".gitattributes": b""}
    for kind, splits in FULL_DATA.items():
        for split in splits:
            numbers = range(rows)
            parts = [
                [row(kind, n, name=split) for n in numbers if n % count == part]
                for count in [3 if split.startswith("msmarco") else 1]
                for part in range(count)
            ]
            files |= shards(split, *parts)
    return files


EXAMPLES: Mapping[str, tuple[str, bool]] = {
    "classification-no_in_batch_neg/AmazonClassification.jsonl": ("symmetric_class", False),
    "classification-no_in_batch_neg/Banking77Classification.jsonl": ("symmetric_class", False),
    "clustering-no_in_batch_neg/arXiv_title.jsonl": ("symmetric_clustering", False),
    "clustering-no_in_batch_neg/bioRXiv_title.jsonl": ("symmetric_clustering", False),
    "retrieval/msmarco.jsonl": ("normal", True),
    "retrieval/nli.jsonl": ("only_1neg", True),
    "retrieval/nq.jsonl": ("normal", False),
    "sts/sts.jsonl": ("symmetric_sts", False),
}
"""FlagEmbedding's examples/finetune/embedder/example_data: file → (type, whether it has scores)."""


def write_examples(folder: Path, rows: int = 10) -> None:
    """The eight files, with the fields that each of the originals has: category only of clusters, scores of two."""
    for name, (kind, scored) in EXAMPLES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for number in range(rows):
            one = row(kind, number, name=path.stem)
            if kind != "symmetric_clustering":
                del one["category"]
            for side in ("pos", "neg"):
                del one[f"{side}_scores"]
                if scored:
                    one[f"{side}_scores"] = [97.5 - number] * len(one[side])
            lines.append(json.dumps(one) + "\n")
        path.write_text("".join(lines), encoding="utf-8")
