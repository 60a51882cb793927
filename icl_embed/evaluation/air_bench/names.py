"""AIR-Bench's data sets and their names: ``air-bench/qa_wiki_en``, ``air-bench/24.04/qa``, ``air-bench``.

A task is ``<type>_<domain>_<language>``, with the data set before the language where there are several:
``long-doc_arxiv_gpt3_en``. Types, domains and languages hold no underscore, so every name reads one way.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Final, Literal, get_args

from icl_embed.errors import EvaluationError

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


FAMILY: Final = "air-bench"
PREFIX = "air-bench/"
_DOMAIN = re.compile(r"[a-z0-9]+")
_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # becomes part of file names


@dataclass(frozen=True, order=True)
class TaskName:
    """What names a task's data in AIR-Bench."""

    version: str
    type: str
    domain: str
    language: str
    dataset: str = DEFAULT_DATASET

    def __str__(self) -> str:
        middle = "" if self.dataset == DEFAULT_DATASET else f"_{self.dataset}"
        return f"{self.type}_{self.domain}{middle}_{self.language}"

    @property
    def full(self) -> str:
        """With family and version, as ``eval run --tasks`` takes it."""
        return f"{PREFIX}{self.version}/{self}"

    @property
    def config(self) -> str:
        """The version as AIR-Bench writes it, also the configuration of its repositories."""
        return f"AIR-Bench_{self.version}"

    @property
    def published(self) -> Published | None:
        """Its line in AIR-Bench's table; None for data of one's own in the same layout."""
        return next((one for one in published() if _name_of(one) == self), None)

    @classmethod
    def parse(cls, name: str, *, version: str = LATEST) -> TaskName:
        """From ``[air-bench/][<version>/]<type>_<domain>[_<dataset>]_<language>``.

        The data set need not be one of AIR-Bench's own: a folder may hold others in its layout.

        Raises
            EvaluationError: not such a name, or an unknown version; the nearest names are suggested.
        """
        found_version, rest = _split_version(name, version)
        parts = rest.split("_")
        type_, domain, middle, language = parts[0], parts[1:2], parts[2:-1], parts[-1]
        dataset = "_".join(middle) or DEFAULT_DATASET
        well_formed = len(parts) > 2 and _DOMAIN.fullmatch(domain[0]) and _DATASET.fullmatch(dataset)
        if type_ not in TYPES or language not in LANGUAGES or not well_formed:
            raise unknown_name(name, found_version)
        return cls(found_version, type_, domain[0], language, dataset)


def resolve(
    names: Sequence[str], *, version: str = LATEST, split: str = "dev", own_data: bool = False
) -> list[str]:
    """Full task names, each once, groups expanded in AIR-Bench's order to what has the split.

    A group is ``air-bench``, a type, or a type with a domain, a language or both: ``air-bench/24.05/qa``,
    ``qa_en``, ``long-doc_arxiv``, ``long-doc_arxiv_en``. A version in a name goes before ``version``.

    Parameters
        own_data: also take names of data sets that AIR-Bench does not have; a local folder may hold them.

    Raises
        EvaluationError: an unknown name, version or split, or a group without any task that has the split.
    """
    if split not in SPLITS:
        raise EvaluationError(f"AIR-Bench has the splits {' and '.join(SPLITS)}, found {split!r}")
    found: dict[str, None] = {}
    for name in names:
        found.update(dict.fromkeys(_expand(name, version, split, own_data)))
    return list(found)


def usual_split(name: str, version: str = LATEST) -> str:
    """What a task or group is evaluated on unless somebody says otherwise.

    That is dev, whose judgements are public; 24.04 has test alone, whose rankings are sent in.

    Raises
        EvaluationError: an unknown version.
    """
    mine, _ = _split_version(name, version or LATEST)
    return "dev" if any("dev" in one.queries for one in published() if one.version == mine) else "test"


def is_air_bench(name: str) -> bool:
    """Whether a task's or group's name belongs to AIR-Bench."""
    return name == FAMILY or name.startswith(PREFIX)


def _expand(name: str, version: str, split: str, own_data: bool) -> list[str]:
    version, rest = _split_version(name, version)
    all_tasks = [one for one in published() if one.version == version]
    if any(str(_name_of(one)) == rest for one in all_tasks):
        return [f"{PREFIX}{version}/{rest}"]
    group = [one for one in all_tasks if not rest or rest in _groups_of(one)]
    if not group and own_data:
        return [TaskName.parse(name, version=version).full]
    if not group:
        raise unknown_name(name, version)
    served = [one for one in group if split in one.queries]
    if not served:
        has = sorted({known for one in group for known in one.queries})
        raise EvaluationError(
            f"no task of {name} in AIR-Bench {version} has the split {split!r}; it has: {', '.join(has)}"
        )
    return [_name_of(one).full for one in served]


def _split_version(name: str, default: str) -> tuple[str, str]:
    """(version, what is left of the name)."""
    rest = "" if name == FAMILY else name.removeprefix(PREFIX)
    first, separator, last = rest.partition("/")
    numeric = re.fullmatch(r"\d\d\.\d\d", first) is not None
    version, rest = (first, last) if separator or numeric else (default, rest)
    version = version.removeprefix("AIR-Bench_")
    if version not in versions():
        raise EvaluationError(
            f"{name}: AIR-Bench has the versions {' and '.join(versions())}, found {version!r}"
        )
    return version, rest


def _groups_of(one: Published) -> set[str]:
    return {
        one.type,
        f"{one.type}_{one.language}",
        f"{one.type}_{one.domain}",
        f"{one.type}_{one.domain}_{one.language}",
    }


def _name_of(one: Published) -> TaskName:
    return TaskName(one.version, one.type, one.domain, one.language, one.dataset)


def unknown_name(name: str, version: str) -> EvaluationError:
    """The error for a name that is none, with the nearest that are."""
    tasks = [one for one in published() if one.version == version]
    known = {str(_name_of(one)) for one in tasks}.union(*(_groups_of(one) for one in tasks))
    near = difflib.get_close_matches(name.removeprefix(PREFIX).rpartition("/")[2], sorted(known), n=3)
    hint = f"; did you mean {' or '.join(PREFIX + one for one in near)}?" if near else ""
    return EvaluationError(
        f"AIR-Bench {version} has no task or group {name!r}{hint} Tasks are named "
        f"{PREFIX}qa_wiki_en or {PREFIX}long-doc_arxiv_gpt3_en, groups {PREFIX}qa or {PREFIX}qa_en"
    )
