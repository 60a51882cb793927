"""What a report is made from: folders, and the facts that are read from them.

A file that is missing gives nothing; a file that is broken is an error, because the store verified it.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from icl_embed.errors import DataError
from icl_embed.model.dtype import name_dtype
from icl_embed.report.charts import Point
from icl_embed.report.score_table import Systems
from icl_embed.store.manifest import MANIFEST_NAME, Manifest, processor, read_manifest
from icl_embed.train.embedder.published import read_published
from icl_embed.train.metrics import METRICS_NAME, dev_lines, read_metrics, step_lines

Role = Literal["train", "evaluate", "train and evaluate"]


@dataclass(frozen=True)
class ReportDataset:
    """A data set of the run: what its card says, its role, and its artefact folder."""

    name: str
    kind: str
    role: Role
    folder: Path
    title: str = ""
    licence: str = ""
    homepage: str = ""


@dataclass(frozen=True)
class ReportInputs:
    """Everything a report may show.

    Attributes
        config: the resolved config tree (``RunConfig.model_dump(mode="json")``).
        datasets: the data sets of the run.
        pool, negatives, embedder, reranker, reranker_choice, reranker_evaluation: artefact folders, None
            where a run has none.
        scores: score artefact folders of own cards, any number of models.
        benchmarks: score artefact folders of benchmark tasks.
        missing: (task, reason) of benchmark tasks that could not be had.
        artefacts: every artefact folder of the run, for timings and lineage (each has a ``manifest.json``).
        systems: what the scores call the models.
        machine: rows of (fact, value) about the hardware; None looks at this machine.
    """

    config: Mapping[str, Any]
    datasets: tuple[ReportDataset, ...] = ()
    pool: Path | None = None
    negatives: Path | None = None
    embedder: Path | None = None
    scores: tuple[Path, ...] = ()
    benchmarks: tuple[Path, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
    reranker: Path | None = None
    reranker_choice: Path | None = None
    reranker_evaluation: Path | None = None
    artefacts: tuple[Path, ...] = ()
    systems: Systems = field(default_factory=Systems)
    machine: tuple[tuple[str, str], ...] | None = None


Table = tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]
"""Column names and rows."""


@dataclass(frozen=True)
class DatasetSize:
    """A data set with its rows per split and its passages."""

    dataset: ReportDataset
    rows: dict[str, int]
    passages: int


@dataclass(frozen=True)
class ArtefactFact:
    """One artefact of the run: what made it, and how long it took."""

    manifest: Manifest

    @property
    def inputs(self) -> tuple[tuple[str, str], ...]:
        """(role, fingerprint) of each input."""
        found = self.manifest.key.get("inputs", {})
        return tuple((role, str(name).rpartition("/")[2]) for role, name in found.items())


def dataset_size(dataset: ReportDataset) -> DatasetSize:
    """Count the rows of a dataset artefact by split, and its passages.

    Raises
        DataError: a file is there and cannot be read.
    """
    rows = _split_counts(dataset.folder / "rows.parquet")
    return DatasetSize(dataset, rows, sum(_split_counts(dataset.folder / "corpus.parquet").values()))


def _split_counts(path: Path) -> dict[str, int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        return {}
    try:
        counted = pq.read_table(path, columns=["split"]).column("split").value_counts().to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}; rebuild the artefact") from error
    return {item["values"]: item["counts"] for item in counted}


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if it is missing.

    Raises
        DataError: it is not JSON.
    """
    if not path.exists():
        return None
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not JSON: {error}; rebuild the artefact") from error


def per_dataset_table(statistics: Any) -> Table | None:
    """A table of counts with one row per data set, from ``{"datasets": {name: {...}}}`` or ``{name: {...}}``.

    Nested mappings become columns of their own, so the table shows whatever the stage counted.
    """
    if not isinstance(statistics, Mapping):
        return None
    named = statistics.get("datasets", statistics)
    if not isinstance(named, Mapping):
        return None
    flat = {name: _flatten(counts) for name, counts in named.items() if isinstance(counts, Mapping)}
    columns = list(dict.fromkeys(column for counts in flat.values() for column in counts))
    if not columns:
        return None
    # A reason that nothing was dropped for is noise.
    columns = [c for c in columns if any(counts.get(c) not in (None, 0) for counts in flat.values())]
    rows = tuple((name, *(counts.get(column, 0) for column in columns)) for name, counts in flat.items())
    return ("data set", *(column.replace("_", " ") for column in columns)), rows


def pool_table(statistics: Any) -> Table | None:
    """The pool's way from pairs in to pairs out, one row per data set; None when nothing is known."""
    if not isinstance(statistics, Mapping) or not isinstance(statistics.get("datasets"), Mapping):
        return per_dataset_table(statistics)
    shown = (
        "pairs_in",
        "rejected",
        "pairs_not_positive",
        "pairs_out",
        "weight",
        "decontamination",
        "long_texts",
    )
    picked = {}
    for name, counts in statistics["datasets"].items():
        picked[name] = {part: counts[part] for part in shown if part in counts}
        # Which evaluated set a text was found in is one column per set: too wide for a page, see pool stats.
        found = picked[name].get("decontamination")
        if isinstance(found, Mapping):
            plain = {part: value for part, value in found.items() if not isinstance(value, Mapping)}
            picked[name]["decontamination"] = plain
        examples = counts.get("examples")
        if isinstance(examples, Mapping):
            picked[name]["examples"] = examples.get("kept", 0)
    return per_dataset_table(picked)


def _flatten(counts: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in counts.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}: ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[f"{prefix}{name}"] = value
    return flat


def read_artefacts(folders: tuple[Path, ...]) -> tuple[ArtefactFact, ...]:
    """The manifests of all artefacts, in the order given; folders without one are left out."""
    found = [read_manifest(folder) for folder in folders if (folder / MANIFEST_NAME).exists()]
    return tuple(map(ArtefactFact, found))


def this_machine() -> tuple[tuple[str, str], ...]:
    """Processor, cores, memory and accelerators of the machine we run on."""
    facts = [
        ("processor", processor()),
        ("cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())),
        ("memory", _memory()),
        ("accelerator", _accelerator()),
        ("system", f"{platform.system()} {platform.release()}"),
    ]
    return tuple(facts)


def number_format(asked: str) -> str:
    """Which number format a run computes in on this machine, and why."""
    chosen = name_dtype(asked)
    if asked != "auto":
        return f"{chosen}, as the config asks"
    return f"{chosen}, as the device {'computes' if chosen == 'bfloat16' else 'does not compute'} in bfloat16"


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return "unknown"
    return f"{total / 2**30:.0f} GiB"


def _accelerator() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(names)


def signed(value: float) -> str:
    """A difference in points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class TrainingFacts:
    """What the log of a training run says.

    ``facts`` are (name, value) rows for reading; ``points`` is the loss at each step and ``smooth`` its
    trailing mean; ``dev_zero`` and ``dev_few`` are averages on dev splits, in percent, where it measured.
    """

    facts: tuple[tuple[str, str], ...]
    points: tuple[Point, ...]
    smooth: tuple[Point, ...]
    dev_zero: tuple[Point, ...] = ()
    dev_few: tuple[Point, ...] = ()

    @property
    def dev_table(self) -> list[tuple[float, float, float]]:
        """(step, zero-shot, few-shot) of each measurement."""
        return [(step, zero, few) for (step, zero), (_, few) in zip(self.dev_zero, self.dev_few, strict=True)]


def read_training(folder: Path | None) -> TrainingFacts | None:
    """The facts of an embedder's or reranker's training; None when there is no log."""
    log = read_metrics(folder / METRICS_NAME) if folder else []
    lines, measured = step_lines(log), dev_lines(log)
    if folder is None or not lines:
        return None
    points = tuple((float(line["step"]), float(line["loss"])) for line in lines)
    share = max(1, len(lines) // 10)
    losses = [loss for _, loss in points]
    facts = [
        ("steps", f"{len(lines):,}"),
        ("loss, first tenth", f"{fmean(losses[:share]):.3f}"),
        ("loss, last tenth", f"{fmean(losses[-share:]):.3f}"),
        *_averages(lines),
        ("seconds in steps", f"{sum(float(line.get('seconds', 0.0)) for line in lines):,.0f}"),
        *_published(folder, measured),
    ]
    zero, few = (
        tuple((float(line["step"]), 100 * float(line[name])) for line in measured)
        for name in ("dev_zero_shot", "dev_few_shot")
    )
    return TrainingFacts(tuple(facts), points, _smooth(points), zero, few)


def _published(folder: Path, measured: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Which weights are published, where training had a choice, and what it measured."""
    told = read_published(folder)
    if not told:
        return []
    early = ", training ended early" if told["stopped_early"] else ""
    seconds = sum(float(line["dev_seconds"]) for line in measured)
    found = [("weights of step", f"{told['published_step']:,}{early}")]
    if "dev_few_shot" in told:
        scores = f"{100 * told['dev_few_shot']:.1f} and {100 * told['dev_zero_shot']:.1f}"
        found.append(("dev average, few-shot and zero-shot", scores))
    return [*found, ("seconds on dev splits", f"{seconds:,.0f}")] if measured else found


def _averages(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    wanted = {
        "examples_per_query": ("examples per query, really used", "{:.2f}"),
        "useful_token_share": ("useful tokens (not padding)", "{:.0%}"),
        "tokens_per_second": ("tokens per second", "{:,.0f}"),
        "grad_norm": ("gradient norm", "{:.2f}"),
    }
    found = []
    for name, (label, form) in wanted.items():
        values = [float(line[name]) for line in lines if isinstance(line.get(name), int | float)]
        if values:
            found.append((f"{label}, mean" if name == "grad_norm" else label, form.format(fmean(values))))
    return found


def _smooth(points: Sequence[Point]) -> tuple[Point, ...]:
    window = max(1, len(points) // 15)
    return tuple(
        (points[end][0], fmean(loss for _, loss in points[max(0, end + 1 - window) : end + 1]))
        for end in range(len(points))
    )
