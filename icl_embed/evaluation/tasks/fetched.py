"""A benchmark task's data, fetched once: a folder that a task opens from, whatever it came from.

The folder is a mirror of one task: ``mteb/`` in one of the forms that ``evaluation.mteb.mirror`` reads, or
``air_bench/`` in AIR-Bench's layout, with ``task.json``, which says what was asked for and what was found.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from icl_embed.errors import EvaluationError, MissingTaskError, SourceError
from icl_embed.evaluation.air_bench.names import LATEST, TaskName, is_air_bench, usual_split
from icl_embed.evaluation.tasks.local import open_dataset
from icl_embed.evaluation.tasks.opening import TaskPlaces, open_task
from icl_embed.evaluation.tasks.task import BenchmarkTask
from icl_embed.store import Artefact, StageKey
from icl_embed.store.files import sha256_of, write_atomically

STAGE, VERSION = "task-data", 3
ABOUT_NAME = "task.json"
MTEB, AIR_BENCH = "mteb", "air_bench"
HUB = "hub"


def task_data_key(name: str, places: TaskPlaces) -> StageKey:
    """The key of a task's data: its name and what they come from, never where a mirror lies.

    Raises
        ConfigError, DataError: as ``origin_of``.
    """
    return StageKey(STAGE, VERSION, {"task": name, "origin": origin_of(name, places)}, {}, name)


def open_stored(data: Artefact, places: TaskPlaces) -> BenchmarkTask:
    """The task of an artefact: an own card's data set, or what ``fetch_task`` brought.

    Raises
        EvaluationError: its data cannot be used.
    """
    if data.stage == STAGE:
        return open_fetched(data.path, places)
    return open_dataset(data, places.config, places.split or "")


def origin_of(name: str, places: TaskPlaces) -> dict[str, str]:
    """What decides a task's data before they are read: its revision on the hub, or a mirror's content.

    Raises
        ConfigError: mteb knows no such task.
        DataError: a manifest of the mirror is not one.
    """
    if is_air_bench(name):
        folder = places.air_bench
        task = TaskName.parse(name, version=places.air_bench_version or LATEST)
        found = {"version": task.version, "split": places.split or usual_split(task.full)}
        return found | {"source": HUB if folder is None else _digest(_air_bench_folders(task, folder))}
    import importlib.metadata

    from icl_embed.evaluation.mteb.names import parse, task_class

    known = task_class(parse(name).task)
    revision = str(known.metadata.dataset.get("revision", "")) if known else ""
    found = {"mteb": importlib.metadata.version("mteb"), "revision": revision, "split": places.split or ""}
    return found | {"source": HUB if places.mirror is None else _mirrored(name, places.mirror)}


def fetch_task(name: str, places: TaskPlaces, downloads: Path, out_dir: Path) -> dict[str, Any]:
    """Bring a task's data into ``out_dir``, open the task from there, and write down what it is.

    Raises
        MissingTaskError: neither mirror nor hub has it.
        SourceUnreachableError: the hub stumbles; trying again can help.
        EvaluationError, DataError, SourceError: its data cannot be used.
    """
    if is_air_bench(name):
        _fetch_air_bench(name, places, downloads, out_dir / AIR_BENCH)
    else:
        _fetch_mteb(name, places, downloads, out_dir / MTEB)
    task = open_task(name, _inside(out_dir, places))
    served = places.air_bench if is_air_bench(name) else places.mirror
    facts = task.facts if served else replace(task.facts, served_from=HUB)
    about = {"name": name, "split": places.split, "version": places.air_bench_version}
    text = json.dumps(about | {"facts": asdict(facts)}, indent=1, ensure_ascii=False)
    write_atomically(out_dir / ABOUT_NAME, text.encode())
    return {
        "kind": facts.kind,
        "queries": len(task.query_texts()),
        "data_fingerprint": facts.data_fingerprint,
        "served_from": facts.served_from,
    }


def open_fetched(folder: Path, places: TaskPlaces) -> BenchmarkTask:
    """The task of a folder that ``fetch_task`` filled.

    Raises
        EvaluationError: the folder is none of those, or its data cannot be used.
    """
    try:
        about = json.loads((folder / ABOUT_NAME).read_bytes())
        name, split, version, facts = (about[part] for part in ("name", "split", "version", "facts"))
    except (OSError, ValueError, KeyError) as error:
        raise EvaluationError(f"{folder} holds no task's data: {error}; fetch the task again") from error
    inside = _inside(folder, replace(places, split=split, air_bench_version=version))
    return open_task(name, inside).described(served_from=str(facts["served_from"]))


def _inside(folder: Path, places: TaskPlaces) -> TaskPlaces:
    return replace(places, mirror=folder / MTEB, air_bench=folder / AIR_BENCH)


def _fetch_mteb(name: str, places: TaskPlaces, downloads: Path, target: Path) -> None:
    from icl_embed.evaluation.mteb.mirror import FolderSet, HubFolder
    from icl_embed.evaluation.mteb.names import parse, task_class

    if places.mirror is not None:
        source = _mirror_source(name, places.mirror)
        home = target / source.folder.name
        if isinstance(source, HubFolder) and source.revision:
            home = _snapshot_home(target, _hub_path(name)) / source.revision
        elif not isinstance(source, FolderSet):
            home = target / _hub_path(name)
        shutil.copytree(source.folder, home)
        return
    known = task_class(parse(name).task)
    if known is None:
        raise MissingTaskError(name, "mteb does not know it, and no mirror was named")
    path, revision = known.metadata.dataset["path"], known.metadata.dataset["revision"]
    _copy_from_hub(name, path, revision, downloads, _snapshot_home(target, path) / revision)


def _fetch_air_bench(name: str, places: TaskPlaces, downloads: Path, target: Path) -> None:
    task = TaskName.parse(name, version=places.air_bench_version or LATEST)
    if places.air_bench is not None:
        for folder in _air_bench_folders(task, places.air_bench):
            shutil.copytree(folder, target / _plain_name(folder))
        target.mkdir(parents=True, exist_ok=True)
        return
    from icl_embed.evaluation.air_bench.data import OWNER, repositories

    for repository in repositories(task, places.split or usual_split(task.full)):
        files = [f"{task.config}/**", "README.md"]
        _copy_from_hub(name, f"{OWNER}/{repository}", "main", downloads, target / repository, files)


def _copy_from_hub(
    name: str, path: str, revision: str, downloads: Path, home: Path, files: Iterable[str] = ("**",)
) -> None:
    from icl_embed.sources.hub import fetch_hub_folder

    try:
        found = fetch_hub_folder(path, revision, tuple(files), downloads)
    except SourceError as error:
        if error.is_transient:
            raise
        raise MissingTaskError(name, f"{error}; serve it from local files, or leave it out") from error
    shutil.copytree(found, home)


def _mirrored(name: str, mirror: Path) -> str:
    try:
        return _digest([_mirror_source(name, mirror).folder])
    except MissingTaskError:
        return "missing"  # building says what was looked for


def _mirror_source(name: str, mirror: Path) -> Any:
    """The folder that serves a task, or a set that mteb does not know."""
    from icl_embed.evaluation.mteb.mirror import contents_of, find_source
    from icl_embed.evaluation.mteb.names import parse, task_class, usual_subset

    if not mirror.is_dir():
        raise MissingTaskError(name, f"there is no mirror folder {mirror}; set evaluate.mirror to one")
    asked = parse(name)
    known = task_class(asked.task)
    if known is not None:
        return find_source(mirror, known.metadata, asked.subset or usual_subset(known.metadata))
    found = contents_of(mirror)
    for one in found.sets:
        if one.name == asked.task:
            return one
    reason = found.unreadable.get(
        asked.task, f"the mirror {mirror} has no set of this name, and mteb no task"
    )
    raise MissingTaskError(name, reason)


def _hub_path(name: str) -> str:
    from icl_embed.evaluation.mteb.names import parse, task_class

    known = task_class(parse(name).task)
    return str(known.metadata.dataset["path"]) if known else parse(name).task


def _snapshot_home(target: Path, path: str) -> Path:
    return target / f"datasets--{path.replace('/', '--')}" / "snapshots"


def _air_bench_folders(task: TaskName, folder: Path) -> list[Path]:
    """The repositories of a task that a folder holds, with the judgements of either split."""
    from icl_embed.evaluation.air_bench.data import find_repository, repositories

    names = dict.fromkeys(name for split in ("dev", "test") for name in repositories(task, split))
    found = (find_repository(folder, name) for name in names)
    return [path for path, _ in found if path is not None]


def _plain_name(repository: Path) -> str:
    """``qa_wiki_en``, also of a snapshot in a cache of the hub's."""
    if repository.parent.name == "snapshots":
        return repository.parents[1].name.rpartition("--")[2]
    return repository.name


def digest_of(path: Path) -> str:
    """One hash over a file, or over names and contents of all files of a folder."""
    return _digest([path])


def _digest(folders: Iterable[Path]) -> str:
    """One hash over several; a copy of the hub's cache has links, which are followed."""
    digest = hashlib.sha256()
    for folder in folders:
        paths = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [folder]
        for path in paths:
            digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()[:16]
