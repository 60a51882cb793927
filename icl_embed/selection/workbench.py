"""One task made ready for trying examples: candidates, development queries, a model that is metered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from icl_embed.config import LABEL_KINDS, RANKING_KINDS, SYMMETRIC_KINDS, EvaluateConfig, Kind
from icl_embed.errors import PoolError
from icl_embed.evaluate.encoding import CachingEncoder, Encoder, Setting
from icl_embed.evaluate.measurement import Bootstrap, Measurement
from icl_embed.evaluate.mteb_run import run_encoder
from icl_embed.evaluate.mteb_tasks import MAIN_SCORES
from icl_embed.evaluate.scores import FEW_SHOT
from icl_embed.evaluate.task_data import EvaluationInput, TaskData
from icl_embed.pool.choose import Candidate
from icl_embed.pool.training_rows import TrainingRow, TrainingSide, read_training_side
from icl_embed.selection.candidates import Candidates, without_texts
from icl_embed.selection.dev_split import DevSplit, count_queries, first_queries, split_training_side
from icl_embed.selection.metered import MeteredEncoder
from icl_embed.selection.search import Found, Positions, halving_shares, search_greedy, search_halving

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
        described = EvaluationInput(
            task, side.kind, side.instruction, pool_dir, pool_dir.name, trained_on=False
        )
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
