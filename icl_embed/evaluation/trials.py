"""Trying examples: a development split made of a task's training side, and what each trial costs.

Everything comes from the pool's kept training rows, so the test split cannot be reached from here: there is
no path to a data set folder in this room, and the pool refuses rows that show an evaluated text.

Rows that share an answer form one family, and a family lies on one side only: a development query never meets
itself or its positive among the candidate examples (design: example rules). Queries for checking are kept
apart from those the search looks at, so the gain that is reported was not searched for.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from icl_embed.config import LABEL_KINDS, RANKING_KINDS, SYMMETRIC_KINDS, EvaluateConfig, Kind
from icl_embed.errors import PoolError
from icl_embed.evaluation.measurement import Bootstrap, Measurement
from icl_embed.evaluation.mteb.local_tasks import MAIN_SCORES
from icl_embed.evaluation.mteb.run import run_encoder
from icl_embed.evaluation.tasks.rows import EvaluationInput, LabelData, PairData, SearchData, TaskData
from icl_embed.examples import Example
from icl_embed.few_shot.candidates import Candidates, without_texts
from icl_embed.few_shot.search import Found, Positions, halving_shares, search_greedy, search_halving
from icl_embed.few_shot.settings import FEW_SHOT
from icl_embed.model.cached_encoding import CachingEncoder, Encoder, Setting, Vectors
from icl_embed.pool.examples import Candidate, TrainingRow, TrainingSide, read_training_side
from icl_embed.prompts import PromptBuilder


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock and tokens through the model."""

    seconds: float = 0.0
    tokens: int = 0

    def __sub__(self, earlier: Cost) -> Cost:
        return Cost(self.seconds - earlier.seconds, self.tokens - earlier.tokens)


@dataclass
class MeteredEncoder:
    """An encoder that counts the tokens it forwards; a prefix counts once per call."""

    encoder: Encoder
    tokens: int = 0
    started: float = field(default_factory=time.perf_counter)

    @property
    def prompts(self) -> PromptBuilder | None:
        """Builds the prompts."""
        return self.encoder.prompts

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.encoder.dimension

    @property
    def cost(self) -> Cost:
        """What has been spent since this meter was made."""
        return Cost(time.perf_counter() - self.started, self.tokens)

    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        instruction: str,
        examples: Sequence[Example] = (),
        batch_tokens: int = 8192,
        show_progress: bool = False,
    ) -> Vectors:
        """Vectors [N, D] of queries."""
        if self.prompts:
            self.tokens += len(self.prompts.prefix(instruction, examples).tokens)
            self.tokens += sum(map(len, self.prompts.query_tails(instruction, texts)))
        return self.encoder.encode_queries(
            texts,
            instruction=instruction,
            examples=examples,
            batch_tokens=batch_tokens,
            show_progress=show_progress,
        )

    def encode_passages(
        self, texts: Sequence[str], *, batch_tokens: int = 8192, show_progress: bool = False
    ) -> Vectors:
        """Vectors [N, D] of passages."""
        if self.prompts:
            self.tokens += sum(map(len, self.prompts.passages(texts)))
        return self.encoder.encode_passages(texts, batch_tokens=batch_tokens, show_progress=show_progress)


LABELLED_PER_CLASS = 16  # texts that mteb's classifiers may draw from; it shows each of them 8
MIN_QUERIES = 8


@dataclass(frozen=True)
class DevSplit:
    """Two disjoint sets of development queries in the form of an evaluation's data.

    Attributes
        search: what a search may look at.
        check: what its result is measured on.
        texts: every text of the split that no example may show.
    """

    search: TaskData
    check: TaskData
    texts: frozenset[str]


def split_training_side(side: TrainingSide, *, max_queries: int, seed: int) -> DevSplit:
    """Take up to ``2 · max_queries`` rows, at most half of all, as development queries.

    A retrieval query searches the positives of the whole training side; a reranking query ranks its positives
    among its own negatives; classifiers are fitted on a few labelled rows that are neither queries nor
    candidates.

    Raises
        PoolError: too few rows for a split that could tell anything.
    """
    rows = [row for row in side.rows if row.negatives] if side.kind == "reranking" else list(side.rows)
    rows = sorted(rows, key=lambda row: _draw(seed, row.row_id))
    families = _families(rows, seed) if side.kind not in LABEL_KINDS else [[row] for row in rows]
    labelled = _labelled(rows, seed) if side.kind == "classification" else []
    taken = {row.row_id for row in labelled}
    queries = _take(families, taken, min(2 * max_queries, len(rows) // 2))
    half = len(queries) // 2
    parts = [
        sorted(part, key=lambda row: _draw(seed, row.row_id)) for part in (queries[:half], queries[half:])
    ]
    search, check = (_task_data(side, part[:max_queries], labelled) for part in parts)
    for data in (search, check):
        _refuse_useless(side, data)
    return DevSplit(search, check, frozenset(_texts(side, [*queries, *labelled])))


def first_queries(data: TaskData, count: int) -> TaskData:
    """The same data with its first ``count`` queries only."""
    if isinstance(data, SearchData):
        names = list(data.queries)[:count]
        candidates = data.candidates and {name: data.candidates[name] for name in names}
        queries = {name: data.queries[name] for name in names}
        relevant = {name: data.relevant[name] for name in names}
        return SearchData(queries, data.passages, relevant, candidates)
    if isinstance(data, PairData):
        return PairData(data.ids[:count], data.first[:count], data.second[:count], data.scores[:count])
    return LabelData(
        data.ids[:count],
        data.texts[:count],
        data.labels[:count],
        data.train_texts,
        data.train_labels,
    )


def count_queries(data: TaskData) -> int:
    """How many queries (or texts, or pairs) the data asks."""
    return len(data.queries) if isinstance(data, SearchData) else len(data.ids)


def _families(rows: Sequence[TrainingRow], seed: int) -> list[list[TrainingRow]]:
    """Rows connected by a shared query or positive, families in hash order (union-find over texts)."""
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        while parent.setdefault(text, text) != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for row in rows:
        for positive in row.positives:
            parent[root(positive)] = root(row.query)
    ordered = sorted(rows, key=lambda row: (_draw(seed, root(row.query)), root(row.query)))
    return [list(family) for _, family in groupby(ordered, key=lambda row: root(row.query))]


def _labelled(rows: Iterable[TrainingRow], seed: int) -> list[TrainingRow]:
    """Some rows of each label, at most half of them, so that some are left to be asked and shown.

    They are drawn apart from the queries: the first of each label would take a rare one out of the queries.
    """
    by_label: dict[str, list[TrainingRow]] = {}
    for row in sorted(rows, key=lambda row: _draw(seed, f"labelled:{row.row_id}")):
        by_label.setdefault(row.positives[0], []).append(row)
    return [
        row
        for label in sorted(by_label)
        for row in by_label[label][: min(LABELLED_PER_CLASS, max(1, len(by_label[label]) // 2))]
    ]


def _take(families: Sequence[Sequence[TrainingRow]], taken: set[str], count: int) -> list[TrainingRow]:
    chosen: list[TrainingRow] = []
    for family in families:
        fresh = [row for row in family if row.row_id not in taken]
        if len(chosen) + len(fresh) <= count:
            chosen += fresh
    return chosen


def _task_data(side: TrainingSide, rows: Sequence[TrainingRow], labelled: Sequence[TrainingRow]) -> TaskData:
    if side.kind in RANKING_KINDS:
        return _search_data(side, rows)
    names = tuple(row.row_id for row in rows)
    queries, seconds = tuple(row.query for row in rows), tuple(row.positives[0] for row in rows)
    if side.kind in LABEL_KINDS:
        train = tuple(row.query for row in labelled), tuple(row.positives[0] for row in labelled)
        return LabelData(names, queries, seconds, *train)
    return PairData(names, queries, seconds, tuple(row.score or 0.0 for row in rows))


def _search_data(side: TrainingSide, rows: Sequence[TrainingRow]) -> SearchData:
    queries = {row.row_id: row.query for row in rows}
    relevant = {row.row_id: tuple(map(_name, row.positives)) for row in rows}
    if side.kind == "retrieval":
        texts = {text for row in side.rows for text in row.positives}
        return SearchData(queries, {_name(text): text for text in sorted(texts)}, relevant)
    ranked = {row.row_id: [*row.positives, *row.negatives] for row in rows}
    passages = {_name(text): text for texts in ranked.values() for text in texts}
    candidates = {name: tuple(sorted(map(_name, texts))) for name, texts in ranked.items()}
    return SearchData(queries, passages, relevant, candidates)


def _texts(side: TrainingSide, rows: Iterable[TrainingRow]) -> Iterable[str]:
    for row in rows:
        yield row.query
        if side.kind not in LABEL_KINDS:
            yield from row.positives


def _refuse_useless(side: TrainingSide, data: TaskData) -> None:
    found = count_queries(data)
    one_target = len(_targets(data)) == 1
    if found < MIN_QUERIES or one_target:
        raise PoolError(
            f"{side.dataset}: {len(side.rows)} training rows give a development split of {found} queries"
            f"{' with one label or score' if one_target else ''}, at least "
            f"{MIN_QUERIES} are needed to tell example sets apart; use another strategy than search"
        )


def _targets(data: TaskData) -> set[str] | set[float]:
    """The distinct labels or scores; none for ranking, where every query has its own answer."""
    if isinstance(data, LabelData):
        return set(data.labels)
    return set(data.scores) if isinstance(data, PairData) else set()


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _draw(seed: int, text: str) -> str:
    return hashlib.blake2b(f"{seed}:dev:{text}".encode(), digest_size=16).hexdigest()


SMALLEST_TRIAL = 12  # queries; fewer rank example sets by luck


@dataclass(frozen=True)
class Workbench:
    """Everything that choosing examples for one task needs; the test split is not part of it.

    Attributes
        task: name, kind and instruction of the task, for the metric code.
        candidates: what may be shown; none of it is asked by ``split``.
        split: development queries.
        meter: counts what the model does.
        config: shots, strategies' options, and how scores are made.
        seed: of everything that is drawn.
    """

    task: EvaluationInput
    candidates: Candidates
    split: DevSplit
    meter: MeteredEncoder
    config: EvaluateConfig
    seed: int

    @classmethod
    def prepare(
        cls,
        pool_dir: Path,
        task: str,
        encoder: Encoder,
        config: EvaluateConfig,
        *,
        seed: int,
        exclude_texts: Sequence[str] = (),
    ) -> Workbench:
        """Read the training side of a task from the pool, and nothing else.

        Raises
            PoolError: no such pool or data set, or too few rows to choose and to check by.
        """
        side = read_training_side(pool_dir, task)
        split = split_training_side(side, max_queries=config.selection.dev_queries, seed=seed)
        meter = MeteredEncoder(encoder)
        candidates = Candidates.read(
            pool_dir,
            task,
            instruction=side.instruction,
            encoder=meter,
            exclude_texts=[*split.texts, *exclude_texts],
        )
        _refuse_no_choice(candidates, config.shots)
        described = EvaluationInput(task, side.kind, side.instruction, pool_dir, pool_dir.name)
        return cls(described, candidates, split, meter, config, seed)

    @classmethod
    def of_examples(
        cls,
        rows: Sequence[Candidate],
        task: EvaluationInput,
        encoder: Encoder,
        config: EvaluateConfig,
        *,
        seed: int,
    ) -> Workbench:
        """Split candidate examples themselves: some are asked, the others may be shown.

        A reranking task is searched as retrieval of its responses, as candidates have no negatives.

        Raises
            PoolError: scored pairs (a candidate has no score), or too few to choose and to check by.
        """
        if task.kind in SYMMETRIC_KINDS - LABEL_KINDS:
            raise PoolError(
                f"{task.name}: search needs pairs with scores, which examples are not; "
                "choose another strategy, or search in a pool"
            )
        kind: Kind = "retrieval" if task.kind in RANKING_KINDS else task.kind
        training = (
            TrainingRow(f"{number:08d}", row.example.query, (row.example.response,), (), None)
            for number, row in enumerate(rows)
        )
        side = TrainingSide(task.name, kind, task.instruction, tuple(training))
        split = split_training_side(side, max_queries=config.selection.dev_queries, seed=seed)
        meter = MeteredEncoder(encoder)
        left = tuple(without_texts(rows, split.texts))
        candidates = Candidates(task.name, task.instruction, left, CachingEncoder(meter))
        _refuse_no_choice(candidates, config.shots)
        return cls(replace(task, kind=kind), candidates, split, meter, config, seed)

    @property
    def metric(self) -> str:
        """Name of the task's score."""
        return MAIN_SCORES[self.task.kind]

    @property
    def bootstrap(self) -> Bootstrap:
        """How intervals are made."""
        return Bootstrap(self.config.bootstrap_resamples, self.config.confidence, self.seed)

    def measure(self, setting: Setting, data: TaskData) -> Measurement:
        """The values of one way to ask, by the evaluation's own metric code.

        Raises
            EvaluationError: a vector or a score cannot be used.
        """
        run = run_encoder(
            self.task,
            data,
            self.candidates.encoder,
            setting,
            model_name="candidate",
            model_fingerprint="",
            config=self.config,
        )
        return run.measurement

    def setting(self, positions: Positions) -> Setting:
        """All queries asked with the candidates at some positions."""
        return Setting(FEW_SHOT, self.task.instruction, self.candidates.examples(positions))

    def search(self) -> Found:
        """Search for examples on the search part of the split, by the configured method.

        Few queries can stand for all only where a score is a mean over queries; for correlations, average
        precision and clusterings every trial takes all of them.
        """
        options, data = self.config.selection, self.split.search
        num_queries = count_queries(data)
        is_mean = self.task.kind in RANKING_KINDS or self.task.kind == "classification"
        smallest = SMALLEST_TRIAL if is_mean else num_queries

        def score(positions: Positions, share: float) -> float:
            part = first_queries(data, math.ceil(share * num_queries))
            return self.measure(self.setting(positions), part).point

        method = search_greedy if options.search_by == "greedy" else search_halving
        return method(
            len(self.candidates.rows),
            self.config.shots,
            score,
            shares=halving_shares(num_queries, smallest=smallest),
            budget=options.budget,
            seed=self.seed,
        )


def _refuse_no_choice(candidates: Candidates, shots: int) -> None:
    if len(candidates.rows) <= shots:
        raise PoolError(
            f"{candidates.task}: {len(candidates.rows)} candidate examples are left beside the development "
            f"queries, there is nothing to choose for {shots} shots; lower the shots or give more data"
        )
