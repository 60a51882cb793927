"""``python -m icl_embed.train job.json``: one rank of an embedder training job, usually under torchrun."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from icl_embed.launch.worker import run_rank
from icl_embed.model.backbone import load_backbone
from icl_embed.model.embedder import Embedder
from icl_embed.model.lora import ADAPTER_FOLDER, attach, merge, save_adapter
from icl_embed.model.settings import write_settings
from icl_embed.train.job import EmbedderJob, read_job
from icl_embed.train.loop import run_training
from icl_embed.train.objective import EmbedderObjective
from icl_embed.train.place import Place, enter
from icl_embed.train.prepare import StepBuilder
from icl_embed.train.rows import read_training_sets


def main(job_path: Path) -> int:
    """Train, and write the merged model when the last step is done."""
    job = read_job(job_path, EmbedderJob)
    return run_rank(job.work_dir, lambda: train(job))


def train(job: EmbedderJob) -> bool:
    """Run this rank's part of the job; returns whether the last step is done."""
    launch = job.train.launch
    with enter(device=launch.device, dtype=job.dtype, threads=launch.threads) as place:
        logging.basicConfig(level=logging.INFO if place.is_first else logging.WARNING, format="%(message)s")
        embedder = _load(job, place)
        builder = StepBuilder(
            embedder.prompts,
            read_training_sets(job.rows_path),
            job.train,
            seed=job.seed,
            mine=(place.rank, place.world_size),
        )
        result = run_training(
            EmbedderObjective(embedder, builder.build, job.train),
            optimizer=job.train.optimizer,
            work_dir=job.work_dir,
            seed=job.seed,
            identity={"job": job.fingerprint, "dtype": str(place.dtype)},
            place=place,
        )
        if result.is_complete and place.is_first:
            save_adapter(embedder.model, job.out_dir / ADAPTER_FOLDER)
            merge(embedder.model).save_pretrained(job.out_dir)
            embedder.tokenizer.save_pretrained(job.out_dir)
            write_settings(job.out_dir, job.settings)
        place.wait()
    return result.is_complete


def _load(job: EmbedderJob, place: Place) -> Embedder:
    model, tokenizer = load_backbone(job.model_dir, device=place.device, dtype=place.dtype)
    settings = job.settings.model_copy(update={"prompt": job.train.prompt})
    embedder = Embedder(attach(model, job.train.lora, seed=job.seed), tokenizer, settings)
    embedder.model.train()
    return embedder


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
