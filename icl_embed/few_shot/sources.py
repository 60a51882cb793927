"""Where a task's examples come from, and what is left out before any strategy sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from icl_embed.config import LABEL_KINDS, Kind
from icl_embed.errors import PoolError
from icl_embed.examples import Example
from icl_embed.few_shot.candidates import without_texts
from icl_embed.few_shot.files import find_example_file, read_example_file
from icl_embed.pool.examples import Candidate, eligible_examples, in_drawn_order
from icl_embed.store.key import canonical_json
from icl_embed.texts import compared_form, compared_forms

MAX_CANDIDATES = 512  # as many as the pool keeps per task


class NamedTask(Protocol):
    """What names a task and says what it asks."""

    @property
    def name(self) -> str:
        """As its benchmark calls it."""

    @property
    def kind(self) -> Kind:
        """What its queries are answered by."""


class OffersExamples(Protocol):
    """What this file needs of a task that is evaluated (``evaluation.tasks.task.BenchmarkTask``)."""

    @property
    def facts(self) -> NamedTask:
        """What it is."""

    def evaluated_texts(self) -> set[str]:
        """Texts that no example may show."""

    def training_examples(self) -> Sequence[Candidate]:
        """Candidates of its own training split; may be none."""


@dataclass(frozen=True)
class ExampleSource:
    """What the user named; with nothing named, the task's own training split.

    Attributes
        files: an example file, or a folder with one per task.
        pool_dir: a pool artefact.
        pool_names: task -> data set of the pool, where the names differ.
        max_candidates: more than these of a training split or pool are left out, labels by turns.
    """

    files: Path | None = None
    pool_dir: Path | None = None
    pool_names: Mapping[str, str] = field(default_factory=dict)
    max_candidates: int = MAX_CANDIDATES

    def dataset_of(self, facts: NamedTask) -> str:
        """The pool's name of a task."""
        return self.pool_names.get(facts.name, facts.name.removeprefix("data/"))


@dataclass(frozen=True)
class Offered:
    """The candidates of a task.

    Attributes
        rows: what may be shown.
        origin: where they came from, in words.
        found: how many there were.
        dropped: reason -> how many were left out.
        in_order: the source's order is meant: ``fixed`` shows the first ones.
        reason: why there are none.
    """

    rows: tuple[Candidate, ...]
    origin: str
    found: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    in_order: bool = False
    reason: str = ""

    @property
    def fingerprint(self) -> str:
        """Hash of the candidates, in order."""
        return hash_examples([row.example for row in self.rows])


def offer_examples(task: OffersExamples, source: ExampleSource) -> Offered:
    """The candidate examples of a task, none of which shows what is evaluated.

    Raises
        DataError: an example file is not one.
    """
    facts = task.facts
    if source.files is not None:
        return _from_file(task, source.files)
    if source.pool_dir is not None:
        dataset = source.dataset_of(facts)
        try:
            rows: Sequence[Candidate] = eligible_examples(source.pool_dir, dataset)
        except PoolError as error:
            return Offered((), "pool", reason=str(error))
        return _kept(task, rows, f"{dataset} of pool {source.pool_dir.name}", limit=source.max_candidates)
    rows = task.training_examples()
    if not rows:
        reason = "the task has no training split to take examples from; name some with --examples or --pool"
        return Offered((), "training split", reason=reason)
    return _kept(task, rows, "training split", limit=source.max_candidates)


def hash_examples(examples: Sequence[Example]) -> str:
    """A hash of the exact texts, in order."""
    shown = [[example.query, example.response] for example in examples]
    return hashlib.sha256(canonical_json(shown).encode()).hexdigest()[:32]


def _from_file(task: OffersExamples, where: Path) -> Offered:
    path = find_example_file(where, task.facts.name)
    if path is None:
        return Offered((), "file", reason=f"{where} has no file for {task.facts.name}")
    examples = read_example_file(path)
    if task.facts.kind not in LABEL_KINDS:
        return _kept(task, [Candidate(example, "") for example in examples], f"file {path.name}")
    # A file may say Exchange rate where the training split, and so training, says exchange_rate.
    labels = {_plain(row.label): row.label for row in task.training_examples()}
    rows = []
    for example in examples:
        label = labels.get(_plain(example.response), example.response)
        rows.append(Candidate(Example(example.query, label), label))
    return _kept(task, rows, f"file {path.name}")


def _kept(
    task: OffersExamples, rows: Sequence[Candidate], origin: str, *, limit: int | None = None
) -> Offered:
    """What is left of the candidates; ``limit`` is for sources whose order means nothing."""
    dropped: dict[str, int] = {}
    left = _apart(_once(rows))
    dropped["twice, or the query again as its response"] = len(rows) - len(left)
    unseen = without_texts(left, task.evaluated_texts())
    dropped["shows an evaluated text"] = len(left) - len(unseen)
    if limit is not None and len(unseen) > limit:
        unseen = in_drawn_order(unseen, task.facts.name, seed=0)[:limit]
    counted = {reason: count for reason, count in dropped.items() if count}
    what = ", ".join(f"{count} {reason}" for reason, count in counted.items())
    reason = "" if unseen else f"none of the {len(rows)} examples ({origin}) may be shown: {what or 'empty'}"
    return Offered(tuple(unseen), origin, len(rows), counted, in_order=limit is None, reason=reason)


def _once(rows: Sequence[Candidate]) -> list[Candidate]:
    return list({(row.example, row.label): row for row in rows}.values())


def _apart(rows: Sequence[Candidate]) -> list[Candidate]:
    """Examples that say something: the first release of the paper's had the query again as the response."""
    queries = compared_forms([row.example.query for row in rows])
    responses = compared_forms([row.example.response for row in rows])
    return [
        row
        for row, query, response in zip(rows, queries, responses, strict=True)
        if query != response and query and response
    ]


def _plain(label: str) -> str:
    return compared_form(label.replace("_", " "))
