"""The configuration files by which sentence-transformers (and vLLM, and TEI) load the folder.

Queries need a suffix, and the prompts of sentence-transformers are prefixes. Its chat-template path solves
this without code of ours: a prompt becomes the system message, and the template closes the query. Mean
pooling leaves the prompt's tokens out, which that path cannot; there the suffix is the caller's, as the model
card shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl_embed.export.prompt_text import PromptText
from icl_embed.export.task_prompts import TaskPrompt
from icl_embed.model.settings import EmbedderSettings
from icl_embed.store.files import write_atomically

MODULES = ("Transformer", "Pooling", "Normalize")
FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}


def write_sentence_transformers_files(
    folder: Path,
    settings: EmbedderSettings,
    text: PromptText,
    tasks: Mapping[str, TaskPrompt],
    *,
    dimension: int,
) -> None:
    """Write modules, pooling and prompts.

    Raises
        StoreError: the disk refused.
    """
    files: dict[str, Any] = {
        "modules.json": [
            {
                "idx": number,
                "name": str(number),
                "path": f"{number}_{name}" if number else "",
                "type": f"sentence_transformers.models.{name}",
            }
            for number, name in enumerate(MODULES)
        ],
        "sentence_bert_config.json": _transformer(settings),
        "1_Pooling/config.json": _pooling(settings, dimension),
        "2_Normalize/config.json": {},
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": {name: prompt_of(task, settings, text) for name, task in tasks.items()},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }
    for name, content in files.items():
        write_atomically(folder / name, json.dumps(content, indent=1).encode())


def _transformer(settings: EmbedderSettings) -> dict[str, Any]:
    modalities: dict[str, Any] = {"text": FORWARD}
    if settings.pooling == "last":
        modalities["message"] = {**FORWARD, "format": "flat"}
    return {
        "transformer_task": "feature-extraction",
        "modality_config": modalities,
        "module_output_name": "token_embeddings",
        "query_length": settings.prompt.total_tokens,
        "document_length": settings.prompt.passage_tokens,
    }


def _pooling(settings: EmbedderSettings, dimension: int) -> dict[str, Any]:
    """The older names and one flag per method: what every reader of these files understands."""
    is_mean = settings.pooling == "mean"
    return {
        "word_embedding_dimension": dimension,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": is_mean,
        "pooling_mode_max_tokens": False,
        "pooling_mode_lasttoken": not is_mean,
        "include_prompt": not is_mean,
    }


def longest_prompt(task: TaskPrompt, text: PromptText) -> int:
    """Tokens to which we cut a whole query of a task: its examples, and the budget of a query."""
    builder = text.builder
    before = len(builder.bos) + len(builder.head(task.instruction))
    examples = len(builder.prefix(task.instruction, task.examples).tokens) - before
    return examples + builder.budgets.query_tokens


def prompt_of(task: TaskPrompt, settings: EmbedderSettings, text: PromptText) -> str:
    """The prompt of a task in sentence-transformers.

    Under mean pooling the prompt ends before the space of the query, whose token belongs to the query.
    """
    prefix = text.prefix(task.instruction, task.examples)
    return prefix.removesuffix(text.space) if settings.pooling == "mean" and text.space else prefix
