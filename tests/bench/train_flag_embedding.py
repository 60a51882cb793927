"""``python -m tests.bench.train_flag_embedding request.json``: one run of FlagEmbedding's ICL trainer.

Its own Runner, Dataset, Collator and Trainer do everything; a callback and a wrapper around the collator only look.
Its default query length of 32 tokens leaves no room for a single example (prefixes may take query_max_len - 512),
so it gets the paper's 2048.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from FlagEmbedding.finetune.embedder.decoder_only.icl import (
    DecoderOnlyEmbedderICLDataArguments,
    DecoderOnlyEmbedderICLModelArguments,
    DecoderOnlyEmbedderICLRunner,
    DecoderOnlyEmbedderICLTrainingArguments,
)
from transformers import HfArgumentParser, TrainerCallback

from tests.bench.train_setting import Outcome, Setting

SUFFIX = "\n<response>"


def main(request: dict[str, Any]) -> None:
    """Train, and write the outcome."""
    setting = Setting(**request["setting"])
    torch.set_num_threads(setting.threads)
    parser = HfArgumentParser(
        (
            DecoderOnlyEmbedderICLModelArguments,
            DecoderOnlyEmbedderICLDataArguments,
            DecoderOnlyEmbedderICLTrainingArguments,
        )
    )
    model, data, training = parser.parse_dict(_arguments(request, setting))
    runner = DecoderOnlyEmbedderICLRunner(model_args=model, data_args=data, training_args=training)
    if next(runner.model.parameters()).dtype != torch.float32:
        raise ValueError("FlagEmbedding did not load the model in fp32")
    watch = Watch(runner.data_collator)
    runner.trainer.data_collator = watch.collate
    runner.trainer.add_callback(watch)
    runner.trainer.train()
    watch.outcome(setting).write(Path(request["outcome"]))


def _arguments(request: dict[str, Any], setting: Setting) -> dict[str, Any]:
    return {
        "model_name_or_path": request["model"],
        "lora_rank": setting.lora_rank,
        "lora_alpha": setting.lora_alpha,
        "lora_dropout": 0.0,
        "train_data": [request["rows"]],
        "cache_path": f"{request['folder']}/cache",
        "same_dataset_within_batch": True,
        "train_group_size": 1 + setting.num_negatives,
        "query_max_len": setting.total_tokens,
        "passage_max_len": setting.passage_tokens,
        "example_query_max_len": setting.example_tokens,
        "example_passage_max_len": setting.example_tokens,
        "query_instruction_format": "<instruct>{}\n<query>{}",
        "icl_suffix_str": SUFFIX,
        "output_dir": f"{request['folder']}/out",
        "use_cpu": True,
        "per_device_train_batch_size": setting.batch_size,
        "max_steps": setting.steps,
        "learning_rate": setting.learning_rate,
        "temperature": setting.temperature,
        "sentence_pooling_method": "last_token",
        "normalize_embeddings": True,
        "seed": setting.seed,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


class Watch(TrainerCallback):
    """Notes when each step ends and what each batch holds."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator
        self.ends: list[float] = []
        self.real = self.fed = self.examples = self.queries = 0

    def collate(self, features: Any) -> Any:
        """The collator's batch, counted."""
        batch = self.collator(features)
        for side in ("queries", "passages"):
            mask = batch[side]["attention_mask"]
            self.real += int(mask.sum())
            self.fed += mask.numel()
        queries = features[0][0]
        self.queries += len(queries)
        self.examples += sum(query.count(SUFFIX) - 1 for query in queries)
        return batch

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step is from the end of the one before to its own: making the batch is part of it."""
        self.ends.append(time.perf_counter())

    def outcome(self, setting: Setting) -> Outcome:
        """What the run took."""
        timed = (len(self.ends) - 1) * setting.batch_size
        return Outcome(
            queries_per_second=timed / (self.ends[-1] - self.ends[0]),
            useful_token_share=self.real / self.fed,
            examples_per_query=self.examples / self.queries,
        )


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_bytes()))
