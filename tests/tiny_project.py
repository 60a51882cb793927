"""A complete project in a folder: a tiny model, four local data sets with cards, a preset that runs in seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.tiny_models import WORDS, build_model

TOPICS = {"animals": ("cat", "dog", "fish", "bird"), "sky": ("sun", "moon", "star", "night")}

CARD = """
name = "{name}"
title = "Tiny {name}"
kind = "{kind}"
instruction = "Given a text, find what belongs to it"
licence = "CC0-1.0"
homepage = ""

[source]
kind = "local"
path = "{name}.jsonl"

[tables.lines]

[rows]
query = "{{query}}"
{mapping}

[splits]
method = "hash"
train = 0.6
dev = 0.1
test = 0.3
"""

PRESET = """
[paths]
store = "{root}/store"
downloads = "{root}/downloads"
catalog = "{root}/cards"

[model]
source = "local"
name = "{root}/model"
dtype = "float32"

[data]
train = ["tiny-facts", "tiny-topics"]
evaluate = ["tiny-notes", "tiny-topics", "tiny-pairs"]

[pool]
max_dropped_fraction = 0.9

[negatives]
rank_from = 0

[train]
batch_size = 8
num_negatives = 1
[train.examples]
sharing = "per_group"
group_size = 4
[train.prompt]
query_tokens = 64
passage_tokens = 64
total_tokens = 256
[train.optimizer]
steps = 4
warmup_steps = 1
save_every = 2
learning_rate = 1e-3
[train.launch]
processes = 2
threads = 1
device = "cpu"

[model.prompt]
query_tokens = 64
passage_tokens = 64
total_tokens = 256

[evaluate]
shots = 2
bootstrap_resamples = 100
label_experiments = 2

[rerank]
start_layer = 2
layer_step = 1
compress_layers = [2]
compress_ratios_trained = [1, 2]
max_tokens = 96
num_negatives = 2
batch_size = 2
top_k = 5
max_queries = 5
[rerank.optimizer]
steps = 2
warmup_steps = 1
[rerank.launch]
threads = 1
device = "cpu"
"""


def build_project(root: Path) -> Path:
    """Write the project below ``root`` and return its preset's path."""
    build_model(root / "model", layers=4)
    cards = root / "cards"
    cards.mkdir()
    rng = random.Random(0)
    pairs = 'positives = "{positive}"'
    write_dataset(cards, "tiny-facts", "retrieval", pairs, [fact(rng, n) for n in range(90)])
    write_dataset(cards, "tiny-notes", "retrieval", pairs, [fact(rng, n + 500) for n in range(60)])
    write_dataset(
        cards, "tiny-topics", "classification", 'label = "{label}"', [topic(rng, n) for n in range(90)]
    )
    scored = 'positives = "{positive}"\nscore = "{score}"'
    write_dataset(cards, "tiny-pairs", "sts", scored, [pair(rng, n) for n in range(60)])
    preset = root / "tiny.toml"
    preset.write_text(PRESET.format(root=root))
    return preset


def write_dataset(cards: Path, name: str, kind: str, mapping: str, records: list[dict[str, object]]) -> None:
    (cards / f"{name}.toml").write_text(CARD.format(name=name, kind=kind, mapping=mapping))
    (cards / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def fact(rng: random.Random, number: int) -> dict[str, object]:
    words = rng.sample(WORDS, 6)
    return {
        "query": f"where is {' '.join(words[:3])} {number}",
        "positive": f"note {number}: {' '.join(words)}",
    }


def topic(rng: random.Random, number: int) -> dict[str, object]:
    label = rng.choice(sorted(TOPICS))
    return {"query": f"{rng.choice(TOPICS[label])} {' '.join(rng.sample(WORDS, 4))} {number}", "label": label}


def pair(rng: random.Random, number: int) -> dict[str, object]:
    words = rng.sample(WORDS, 6)
    score = number % 6
    other = words[: score + 1] + rng.sample(WORDS, 5 - score)
    return {
        "query": f"{' '.join(words)} {number}",
        "positive": f"{' '.join(other)} x{number}",
        "score": score,
    }
