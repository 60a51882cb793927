"""The data of an AIR-Bench task: where it keeps them, read from a folder or the hub, and checked.

A task's passages and queries are in one repository, its relevance judgements in another (``…-dev`` is public,
the test split's is not). One repository serves several versions (configurations) and data sets::

    qa_wiki_en/README.md                                 which files make up which part
    qa_wiki_en/AIR-Bench_24.05/corpus_default.jsonl      {"id", "text"}
    qa_wiki_en/AIR-Bench_24.05/queries_default_dev.jsonl {"id", "text"}
    qrels-qa_wiki_en-dev/AIR-Bench_24.05/qrels_default_dev.jsonl {"qid", "docid", "relevance"}
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from icl_embed.corpus.read import ENDINGS, read_table
from icl_embed.corpus.records import Record
from icl_embed.errors import DataError, EvaluationError, MissingTaskError
from icl_embed.evaluation.air_bench.names import TaskName
from icl_embed.sources.archive import matches
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import COMPRESSED_ENDINGS, Fetched
from icl_embed.sources.local import fetch_local
from icl_embed.store.files import write_atomically

OWNER = "AIR-Bench"
README = "README.md"


@dataclass(frozen=True)
class Part:
    """One table of a task: the repository, the configuration and the split that hold it.

    Attributes
        task: that it is a part of.
    """

    task: str
    repository: str
    config: str
    split: str


def corpus_part(name: TaskName) -> Part:
    """The passages."""
    return Part(name.full, _repository(name), name.config, f"corpus_{_plain(name)}")


def queries_part(name: TaskName, split: str) -> Part:
    """The queries of a split; version 24.04 has but one and does not name it."""
    return Part(name.full, _repository(name), name.config, f"queries_{_plain(name)}{_ending(name, split)}")


def judgements_part(name: TaskName, split: str) -> Part:
    """The relevance judgements of a split."""
    repository = f"qrels-{_repository(name)}" + ("-dev" if split == "dev" else "")
    return Part(name.full, repository, name.config, f"qrels_{_plain(name)}{_ending(name, split)}")


def repositories(name: TaskName, split: str) -> tuple[str, str]:
    """The repositories of a task: passages and queries, and the judgements of a split."""
    return corpus_part(name).repository, judgements_part(name, split).repository


def write_task(
    folder: Path,
    name: TaskName,
    split: str,
    *,
    passages: Mapping[str, str],
    queries: Mapping[str, str],
    relevance: Mapping[str, Mapping[str, int]] | None,
) -> None:
    """Write a task's split into a folder in AIR-Bench's layout, beside what is already there.

    The result can be read by us, by ``datasets.load_dataset`` and, from the folder above one called
    ``AIR-Bench``, by ``air-benchmark`` itself.

    Parameters
        relevance: query -> passage -> grade; None writes a split without judgements.

    Raises
        StoreError: the disk refused.
    """
    _write_part(folder, corpus_part(name), ({"id": key, "text": text} for key, text in passages.items()))
    _write_part(
        folder, queries_part(name, split), ({"id": key, "text": text} for key, text in queries.items())
    )
    if relevance is not None:
        rows = (
            {"qid": query, "docid": passage, "relevance": grade}
            for query, grades in relevance.items()
            for passage, grade in grades.items()
        )
        _write_part(folder, judgements_part(name, split), rows)


def _write_part(folder: Path, part: Part, rows: Iterable[Mapping[str, Any]]) -> None:
    root = folder / part.repository
    write_atomically(
        root / part.config / f"{part.split}.jsonl", b"".join(orjson.dumps(row) + b"\n" for row in rows)
    )
    write_atomically(root / README, _card(root).encode())


def _card(root: Path) -> str:
    """A data set card whose configurations list every file there is."""
    lines = ["---", "configs:"]
    for config in sorted(path for path in root.iterdir() if path.is_dir()):
        lines += [f"- config_name: {config.name}", "  data_files:"]
        for file in sorted(config.glob("*.jsonl")):
            lines += [f"  - split: {file.stem}", f"    path: {config.name}/{file.name}"]
    return "\n".join([*lines, "---", ""])


def _repository(name: TaskName) -> str:
    return f"{name.type}_{name.domain}_{name.language}"


def _plain(name: TaskName) -> str:
    return name.dataset.replace("-", "_")  # a split's name on the hub may not hold a hyphen


def _ending(name: TaskName, split: str) -> str:
    return "" if name.version == "24.04" else f"_{split}"


MAX_CARD_BYTES = 1 << 20


def has_part(folder: Path, part: Part) -> bool:
    """Whether the folder holds files of the part."""
    return bool(_files(folder, part))


def read_part(folder: Path, part: Part) -> list[Record]:
    """The rows of a part.

    Raises
        MissingTaskError: the folder does not hold it.
        DataError: a file is not what its name says, or not UTF-8; names file and record.
        SourceError: a link leads out of the folder, a compressed file is damaged.
    """
    files = _files(folder, part)
    if not files:
        raise MissingTaskError(
            part.task,
            f"{folder} does not hold {part.split}; expected {part.repository}/{part.config}/"
            f"{part.split}.jsonl (or .parquet), or a {README} there whose configs name the files",
        )
    try:
        return read_table(files, Table())[0]
    except UnicodeDecodeError as error:  # Parquet does not check its texts
        raise DataError(f"{part.repository}, {part.split}: a text is not UTF-8: {error}") from error


def _files(folder: Path, part: Part) -> list[Fetched]:
    repository, root = find_repository(folder, part.repository)
    if repository is None:
        return []
    patterns = _declared(repository, part) or _usual(part)
    if not any(
        matches(file.relative_to(repository).as_posix(), pattern)
        for file in repository.rglob("*")
        if file.is_file()
        for pattern in patterns
    ):
        return []
    return fetch_local(repository, patterns, root=root)


def find_repository(folder: Path, name: str) -> tuple[Path | None, Path]:
    """The repository's folder, and how far links in it may lead."""
    for plain in (folder / name, folder / OWNER / name):
        if plain.is_dir():
            return plain, plain
    cached = folder / f"datasets--{OWNER}--{name}"
    if not cached.is_dir():
        return None, folder
    snapshots = sorted(path for path in (cached / "snapshots").glob("*") if path.is_dir())
    main = cached / "refs" / "main"
    current = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    chosen = [path for path in snapshots if path.name == current] or snapshots
    if len(chosen) != 1:
        raise EvaluationError(
            f"{cached} has {len(chosen)} snapshots and refs/main names none of them; expected one"
        )
    return chosen[0], cached


def _declared(repository: Path, part: Part) -> list[str]:
    """The globs that the repository's card gives for a part; none if it has no such card."""
    card = repository / README
    if not card.is_file():
        return []
    if card.stat().st_size > MAX_CARD_BYTES:
        raise DataError(f"{card} is longer than {MAX_CARD_BYTES} bytes; a data set card was expected")
    pieces = card.read_bytes().split(b"---", 2)
    if len(pieces) < 3 or pieces[0].strip() or b"configs:" not in pieces[1]:
        return []
    header = Fetched(f"{part.repository}/{README}", data=pieces[1])
    configs, _ = read_table([header], Table(format="yaml", records="configs.*"))
    return [
        path
        for config in configs
        if config.get("config_name") == part.config
        for entry in _listed(config.get("data_files"))
        if isinstance(entry, dict) and entry.get("split") == part.split
        for path in _listed(entry.get("path"))
        if isinstance(path, str)
    ]


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _usual(part: Part) -> list[str]:
    """Where a part's files lie when no card says so: one file, shards, or a folder of files."""
    stems = (part.split, f"{part.split}-*", f"{part.split}/*")
    endings = [ending + packed for ending in ENDINGS for packed in ("", *COMPRESSED_ENDINGS)]
    return [f"{part.config}/{stem}{ending}" for stem in stems for ending in endings]


def read_hub_part(part: Part) -> Iterable[Mapping[str, Any]]:
    """The rows of a part.

    Raises
        MissingTaskError: the hub cannot be reached and the part is not cached, or it has no such part.
        EvaluationError: a folder in the working directory would be read instead.
    """
    from datasets import load_dataset

    repository = f"{OWNER}/{part.repository}"
    if Path(repository).exists():
        raise EvaluationError(
            f"the folder {repository} in the working directory would be read in place of the hub's "
            f"repository of that name; give it as the local folder, or run from another directory"
        )
    try:
        rows: Iterable[Mapping[str, Any]] = load_dataset(repository, part.config, split=part.split)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MissingTaskError(
            part.task,
            f"cannot get {part.split} of {repository}, {part.config}, from the hub: {reason}. Without a "
            "network, download the repository elsewhere and give the folder that holds it as the mirror",
        ) from error
    return rows


Row = Mapping[str, Any]
Relevance = dict[str, dict[str, int]]


@dataclass(frozen=True)
class AirData:
    """Passages, queries and judgements, each in the order of its identities, however they were stored.

    Attributes
        passages, queries: identity -> text.
        relevance: query -> passage -> grade, 0 for a passage judged irrelevant; None where the judgements are
            not public.
    """

    passages: dict[str, str]
    queries: dict[str, str]
    relevance: Relevance | None

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the content; equal for equal content in any order and any file format."""
        digest = hashlib.sha256()
        for part, rows in (("passages", self.passages), ("queries", self.queries)):
            _feed(digest, part, str(len(rows)))
            for key, text in rows.items():
                _feed(digest, key, text)
        for query, grades in (self.relevance or {}).items():
            for passage, grade in grades.items():
                _feed(digest, query, passage, str(grade))
        return digest.hexdigest()[:16]


def checked_data(
    task: str, passages: Iterable[Row], queries: Iterable[Row], judgements: Iterable[Row] | None
) -> AirData:
    """The data, if they can be trusted.

    Parameters
        task: its name, for messages.
        passages, queries: rows with ``id`` and ``text``.
        judgements: rows with ``qid``, ``docid`` and ``relevance``, or None.

    Raises
        EvaluationError: nothing to search or to ask, an identity twice, a text that is empty or no text, a
            query without judgement, a judgement of an unknown query or passage, a grade that is no count.
    """
    corpus = _texts(task, "passage", passages)
    asked = _texts(task, "query", queries)
    relevance = None if judgements is None else _relevance(task, judgements)
    if relevance is not None:
        _refuse_unjudged(task, asked, relevance)
        _refuse_unknown(task, corpus, asked, relevance)
    return AirData(corpus, asked, relevance)


def _texts(task: str, what: str, rows: Iterable[Row]) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        key, text = row.get("id"), row.get("text")
        if not isinstance(key, str) or not key:
            raise EvaluationError(f"{task}: {what} {number} has the id {key!r}, expected a text")
        if not isinstance(text, str) or not text.strip():
            raise EvaluationError(
                f"{task}: the {what} {key!r} is {text!r}, expected a text that is not empty"
            )
        if key in found:
            raise EvaluationError(f"{task}: the {what} id {key!r} appears more than once; ids must be unique")
        found[key] = text
    if not found:
        raise EvaluationError(f"{task}: there is no {what}; the file is empty, fetch or build it again")
    return dict(sorted(found.items()))


def _relevance(task: str, rows: Iterable[Row]) -> Relevance:
    found: Relevance = {}
    for number, row in enumerate(rows, start=1):
        query, passage = row.get("qid"), row.get("docid")
        if not isinstance(query, str) or not isinstance(passage, str):
            raise EvaluationError(
                f"{task}: judgement {number} has qid {query!r} and docid {passage!r}, expected two texts"
            )
        grade = _grade(row.get("relevance"))
        if grade is None:
            raise EvaluationError(
                f"{task}: the judgement of passage {passage!r} for query {query!r} is "
                f"{row.get('relevance')!r}, expected a whole number from 0"
            )
        known = found.setdefault(query, {}).setdefault(passage, grade)
        if known != grade:
            raise EvaluationError(
                f"{task}: passage {passage!r} is judged twice for query {query!r}, as {known} and {grade}"
            )
    return {query: dict(sorted(grades.items())) for query, grades in sorted(found.items())}


def _grade(value: Any) -> int | None:
    """The grade; other tools write whole numbers as floats, NaN and fractions are no grades."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if value >= 0 and value == int(value) else None


def _refuse_unjudged(task: str, queries: Mapping[str, str], relevance: Relevance) -> None:
    unjudged = [key for key in queries if key not in relevance]
    if unjudged:
        raise EvaluationError(
            f"{task}: {len(unjudged)} of {len(queries)} queries have no judgement, the first is "
            f"{unjudged[0]!r}; a score would be over the others only"
        )


def _refuse_unknown(
    task: str, passages: Mapping[str, str], queries: Mapping[str, str], relevance: Relevance
) -> None:
    for query, grades in relevance.items():
        if query not in queries:
            raise EvaluationError(f"{task}: the judgements name the query {query!r}, which does not exist")
        # An irrelevant passage that is absent changes no score; a relevant one would cap it.
        missing = next((key for key, grade in grades.items() if grade and key not in passages), None)
        if missing is not None:
            raise EvaluationError(
                f"{task}: the passage {missing!r}, relevant to query {query!r}, is not in the corpus"
            )


def _feed(digest: Any, *texts: str) -> None:
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
