"""``python -m icl_embed.train.embedder job.json``: one rank of an embedder training job."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from icl_embed.launch.worker import run_rank
from icl_embed.model.settings import build_prompts
from icl_embed.train.dev_watch import BestWeights, DevHistory, DevWatch
from icl_embed.train.distributed import Place, enter
from icl_embed.train.embedder.batches import refuse_nothing_to_learn
from icl_embed.train.embedder.dev_scores import DevScorer
from icl_embed.train.embedder.dev_sets import DevSet, read_dev_sets
from icl_embed.train.embedder.model import TrainedModel, load_for_training
from icl_embed.train.embedder.objective import EmbedderObjective
from icl_embed.train.embedder.prefetch import prepare_ahead
from icl_embed.train.embedder.prepare import StepBuilder
from icl_embed.train.embedder.published import Published, write_published
from icl_embed.train.embedder.snapshots import BEST, snapshot_folder
from icl_embed.train.embedder.teacher import EmbedderTeacher
from icl_embed.train.job import EmbedderJob, read_job
from icl_embed.train.loop import run_training
from icl_embed.train.plan import count_steps
from icl_embed.train.rows import TrainingSet, read_training_sets
from icl_embed.train.trackers import open_trackers


def main(job_path: Path) -> NoReturn:
    """Train, and write the model when the last step is done."""
    job = read_job(job_path, EmbedderJob)
    run_rank(job.work_dir, lambda: train(job))


def train(job: EmbedderJob) -> bool:
    """Run this rank's part of the job; returns whether the last step is done."""
    with enter(job.train.launch, dtype=job.dtype) as place:
        logging.basicConfig(level=logging.INFO if place.is_first else logging.WARNING, format="%(message)s")
        training_sets = place.first_then_all(
            lambda: read_training_sets(job.rows_path, job.work_dir, job.teacher_dir)
        )
        batch_sizes = job.train.batch_sizes_of(one.kind for one in training_sets)
        job = job.counted(count_steps(training_sets, job.train.optimizer, batch_sizes))
        refuse_nothing_to_learn(training_sets, job.train)
        dev_sets = _dev_sets(job, training_sets)
        model = load_for_training(job, place)
        builder = StepBuilder(
            model.embedder.prompts,
            training_sets,
            job.train,
            seed=job.seed,
            mine=(place.rank, place.world_size),
        )
        dev = _watch_dev(job, model, dev_sets, place) if dev_sets else None
        with prepare_ahead(builder, job.train.tokenizer_workers) as prepare:
            result = run_training(
                EmbedderObjective(model.embedder, prepare, job.train, load_teacher(job, place)),
                optimizer=job.train.optimizer,
                work_dir=job.work_dir,
                seed=job.seed,
                identity={"job": job.fingerprint, "dtype": str(place.dtype)},
                place=place,
                snapshot_every=job.train.snapshot_every,
                snapshot=lambda step: model.snapshot(step, place),
                watched=partial(
                    open_trackers, job.train.launch.trackers, job.work_dir, job.fingerprint, job.told
                ),
                dev=dev,
            )
        if result.is_complete:
            told = Published.of(job.train, result.steps_done, dev.history if dev else DevHistory())
            is_last = told.published_step == result.steps_done
            model.publish(
                place, None if is_last else snapshot_folder(job.work_dir, told.published_step, BEST)
            )
            if place.is_first and dev:
                write_published(told, job.out_dir)
        place.wait()
    return result.is_complete


def _dev_sets(job: EmbedderJob, training_sets: Sequence[TrainingSet]) -> list[DevSet]:
    """What is measured on the way; nothing unless it is asked for."""
    dev = job.train.dev
    return read_dev_sets(job.dev_sources, training_sets, dev, seed=job.seed) if dev.every else []


def _watch_dev(job: EmbedderJob, model: TrainedModel, dev_sets: Sequence[DevSet], place: Place) -> DevWatch:
    """The model is measured with the prompts that it will be published with."""
    embedder, train = model.embedder, job.train
    prompts = build_prompts(embedder.tokenizer, job.settings, embedder.model.config)
    scorer = DevScorer(embedder, prompts, dev_sets, train.dev, batch_tokens=train.batch_tokens, place=place)
    best = BestWeights(lambda step: model.snapshot(step, place, BEST), model.keep_only)
    return DevWatch(
        train.dev,
        scorer,
        steps=train.optimizer.steps,
        place=place,
        best=best if train.dev.keep == "best" else None,
    )


def load_teacher(job: EmbedderJob, place: Place) -> EmbedderTeacher | None:
    """The embedder that is imitated, if the job has one."""
    if job.teacher_model is None:
        return None
    told = job.teacher
    return EmbedderTeacher.load(
        job.teacher_model, kinds=told.kinds, temperature=told.temperature, place=place
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
