"""The archive that AIR-Bench's leaderboard takes: one retriever's (and reranker's) results on the test split.

``<retriever>_<reranker>.zip`` holds ``<type>/<domain>/<language>_<data set>_test.json``. The leaderboard
scores nothing else, and its packing script refuses folders that are no type or domain of AIR-Bench.
"""

from __future__ import annotations

import logging
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

from icl_embed.benchmark.air_bench.catalogue import TYPES, domains, published
from icl_embed.benchmark.air_bench.search_results import NO_RERANKER, load_results, refuse_odd_name
from icl_embed.errors import EvaluationError
from icl_embed.store.files import fsync_path

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same results make the same archive

logger = logging.getLogger(__name__)


def pack_submission(folder: Path, target: Path, *, retriever: str, reranker: str = NO_RERANKER) -> Path:
    """Check a retriever's results and pack those of the test split into the archive to upload.

    Takes
        folder: of search results, as ``save_results`` fills it.
        target: folder for the archive.

    Raises
        EvaluationError: no test results, a file that AIR-Bench would refuse, results of two versions.
    """
    for name in (retriever, reranker):
        refuse_odd_name(name)
    root = folder / retriever / reranker
    files = _checked_files(root)
    _report_missing(root, files)
    target.mkdir(parents=True, exist_ok=True)
    archive = target / f"{retriever}_{reranker}.zip"
    temporary = archive.with_name(f".{archive.name}.partial-{os.getpid()}")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed:
            for place, path in files.items():
                member = zipfile.ZipInfo(place, _EPOCH)
                member.compress_type = zipfile.ZIP_DEFLATED
                member.external_attr = 0o644 << 16
                with path.open("rb") as source, packed.open(member, "w") as sink:
                    shutil.copyfileobj(source, sink)
        fsync_path(temporary)
        temporary.replace(archive)
    except OSError as error:
        raise EvaluationError(f"cannot write {archive}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return archive


def _checked_files(root: Path) -> dict[str, Path]:
    """Place -> path of every test result; everything below the root must be a result."""
    found: dict[str, Path] = {}
    versions = set()
    for path in sorted(path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()):
        place = path.relative_to(root).as_posix()
        kind, _, rest = place.partition("/")
        if path.is_symlink() or kind not in TYPES or rest.partition("/")[0] not in domains():
            raise EvaluationError(
                f"{path}: AIR-Bench takes <type>/<domain>/<language>_<data set>_<split>.json with a type of "
                f"{', '.join(TYPES)} and a domain of {', '.join(domains())}; remove what is not a result"
            )
        results = load_results(path)
        if results.split == "test":
            versions.add(results.task.version)
            found[place] = path
    if not found:
        raise EvaluationError(
            f"{root} holds no result of the test split; AIR-Bench evaluates nothing else, run with that split"
        )
    if len(versions) > 1:
        raise EvaluationError(f"{root} mixes AIR-Bench {' and '.join(sorted(versions))}; submit one version")
    return found


def _report_missing(root: Path, files: Mapping[str, Path]) -> None:
    version = load_results(next(iter(files.values()))).task.version
    expected = {
        f"{one.type}/{one.domain}/{one.language}_{one.dataset}_test.json"
        for one in published()
        if one.version == version and "test" in one.queries
    }
    missing = sorted(expected - set(files))
    if missing:
        logger.warning(
            "%s holds %d of the %d test tasks of AIR-Bench %s; the first that is missing is %s",
            root, len(expected) - len(missing), len(expected), version, missing[0],
        )  # fmt: skip
