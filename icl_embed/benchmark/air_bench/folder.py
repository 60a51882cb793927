"""AIR-Bench's tables from a local folder: repositories as plain folders, or a Hugging Face cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icl_embed.benchmark.air_bench.layout import OWNER, README, Part
from icl_embed.corpus.read import ENDINGS, read_table
from icl_embed.corpus.records import Record
from icl_embed.errors import DataError, EvaluationError, MissingTaskError
from icl_embed.sources.archive import matches
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import COMPRESSED_ENDINGS, Fetched
from icl_embed.sources.local import fetch_local

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
    repository, root = _find_repository(folder, part.repository)
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


def _find_repository(folder: Path, name: str) -> tuple[Path | None, Path]:
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
