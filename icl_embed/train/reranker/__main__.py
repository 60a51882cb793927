"""``python -m icl_embed.train.reranker job.json``: one rank of a training job."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch

from icl_embed.launch.worker import run_rank
from icl_embed.model.cpu.adapted import join_adapters
from icl_embed.model.cpu.kernels import speed_up_frozen
from icl_embed.model.lora import attach
from icl_embed.rerank.folder import export_reranker, start_from
from icl_embed.rerank.pairs import PairBuilder
from icl_embed.train.distributed import enter
from icl_embed.train.job import read_job
from icl_embed.train.loop import run_training
from icl_embed.train.plan import count_steps
from icl_embed.train.reranker.batches import RerankerJob, keep_ranking_sets
from icl_embed.train.reranker.objective import RerankerObjective
from icl_embed.train.rows import read_training_sets
from icl_embed.train.trackers import open_trackers


def main(job_path: Path) -> NoReturn:
    """Train, and write the reranker when the last step is done."""
    job = read_job(job_path, RerankerJob)
    run_rank(job.work_dir, lambda: train(job))


def train(job: RerankerJob) -> bool:
    """Run this rank's part of the job; returns whether the last step is done."""
    config = job.rerank
    with enter(config.launch, dtype=job.dtype) as place:
        logging.basicConfig(level=logging.INFO if place.is_first else logging.WARNING, format="%(message)s")
        mapped = place.first_then_all(
            lambda: read_training_sets(job.rows_path, job.work_dir, job.teacher_dir)
        )
        training_sets = keep_ranking_sets(mapped, batch_size=config.batch_size)
        job = job.counted(
            count_steps(training_sets, config.optimizer, [config.batch_size] * len(training_sets))
        )
        config = job.rerank
        model, tokenizer, settings = start_from(job.model_dir, config, device=place.device, dtype=place.dtype)
        adapted = None
        if config.tuning == "lora":
            # The adapters are built into the decoder's own layers, so the model trains through them.
            speed_up_frozen(model.decoder)
            adapted = attach(model.decoder, config.lora, seed=job.seed)
            join_adapters(model.decoder)
        model.train()
        pairs = PairBuilder(tokenizer, settings.max_tokens, settings.prompt, settings.prompt_place)
        objective = RerankerObjective(model, pairs, training_sets, config, settings, seed=job.seed)
        result = run_training(
            objective,
            optimizer=config.optimizer,
            work_dir=job.work_dir,
            seed=job.seed,
            identity={"job": job.fingerprint, "dtype": str(place.dtype)},
            place=place,
            watched=partial(open_trackers, config.launch.trackers, job.work_dir, job.fingerprint, job.told),
        )
        if result.is_complete:
            if place.is_first:
                with torch.no_grad():
                    export_reranker(model, tokenizer, settings, job.out_dir, adapted=adapted)
        place.wait()
    return result.is_complete


if __name__ == "__main__":
    main(Path(sys.argv[1]))
