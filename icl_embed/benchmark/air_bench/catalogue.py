"""The data sets that AIR-Bench publishes, with their sizes: the table of ``air-benchmark`` 0.1.0 (MIT)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Literal, get_args

TaskType = Literal["qa", "long-doc"]
Split = Literal["dev", "test"]

TYPES: tuple[str, ...] = get_args(TaskType)
SPLITS: tuple[str, ...] = get_args(Split)
LATEST = "24.05"
DEFAULT_DATASET = "default"

LANGUAGES = {
    "ar": "ara-Arab",
    "bn": "ben-Beng",
    "de": "deu-Latn",
    "en": "eng-Latn",
    "es": "spa-Latn",
    "fa": "fas-Arab",
    "fr": "fra-Latn",
    "hi": "hin-Deva",
    "id": "ind-Latn",
    "ja": "jpn-Jpan",
    "ko": "kor-Hang",
    "ru": "rus-Cyrl",
    "zh": "zho-Hans",
}
"""AIR-Bench's language codes -> language and script."""


@dataclass(frozen=True)
class Published:
    """One published data set.

    Attributes
        version: ``24.04`` or ``24.05``.
        dataset: its name within type, domain and language; ``default`` where there is only one.
        passages: how many its corpus holds.
        queries: split -> how many queries; a split that is absent was not published.
    """

    version: str
    type: str
    domain: str
    language: str
    dataset: str
    passages: int
    queries: dict[str, int]


@lru_cache(maxsize=1)
def published() -> tuple[Published, ...]:
    """Every published data set, in AIR-Bench's order."""
    text = files(__package__ or __name__).joinpath("catalogue.tsv").read_text(encoding="utf-8")
    return tuple(
        Published(
            version=row["version"],
            type=row["type"],
            domain=row["domain"],
            language=row["language"],
            dataset=row["dataset"],
            passages=int(row["passages"]),
            queries={split: int(row[f"{split}_queries"]) for split in SPLITS if row[f"{split}_queries"]},
        )
        for row in csv.DictReader(text.splitlines(), delimiter="\t")
    )


def versions() -> tuple[str, ...]:
    """The versions, oldest first."""
    return tuple(sorted({one.version for one in published()}))


def domains() -> tuple[str, ...]:
    """Every domain of any version; an archive with another one is refused by AIR-Bench."""
    return tuple(sorted({one.domain for one in published()}))
