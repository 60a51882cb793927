"""What a report is made from: folders and facts, all optional but the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
        evaluations: evaluation artefact folders, any number of models.
        artefacts: every artefact folder of the run, for timings and lineage (each has a ``manifest.json``).
        cached: fingerprints that this run took from the store; None where that is not known.
        base_model, trained_model: the ``model`` names that the evaluations use.
        machine: rows of (fact, value) about the hardware; None looks at this machine.
    """

    config: Mapping[str, Any]
    datasets: tuple[ReportDataset, ...] = ()
    pool: Path | None = None
    negatives: Path | None = None
    embedder: Path | None = None
    evaluations: tuple[Path, ...] = ()
    reranker: Path | None = None
    reranker_choice: Path | None = None
    reranker_evaluation: Path | None = None
    artefacts: tuple[Path, ...] = ()
    cached: frozenset[str] | None = None
    base_model: str = "base"
    trained_model: str = "trained"
    machine: tuple[tuple[str, str], ...] | None = None
