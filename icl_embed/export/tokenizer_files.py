"""A tokenizer that makes our token ids in other people's hands.

Three changes do it: BOS and EOS by a post-processor in ``tokenizer.json`` (so truncation never cuts EOS, and
no flag is needed that some tokenizers ignore), a split at the mark between segments, and the prompt as a chat
template. What cannot be made equal is counted, not hidden.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl_embed.errors import ModelError
from icl_embed.export.prompt_text import PromptText
from icl_embed.export.task_prompts import TaskPrompt
from icl_embed.prompts import PromptBuilder, Tokens
from icl_embed.store.files import write_atomically

PROBES = (
    "what does this mean",
    " A space before, and after ",
    "two\nlines\n\n",
    "1,000 numbers (and signs), e.g. #5",
    "naïve café 漢字 🙂",
)
NOT_WRITTEN = (
    "backend",
    "is_local",
    "local_files_only",
    "name_or_path",
    "add_bos_token",
    "add_eos_token",
)


def write_tokenizer(builder: PromptBuilder, folder: Path) -> PromptText:
    """Write the adapted tokenizer of ``builder``, and return how to write prompts for it.

    For a few families (Qwen2, Phi-3) transformers builds the tokenizer anew whatever its file says; then the
    prompts have no marks.

    Raises
        ModelError: it is no fast tokenizer, so it has no ``tokenizer.json``, or EOS is not kept on loading.
    """
    text = PromptText(builder)
    _write(builder, text, folder)
    if not _drops(text.mark, folder):
        text = PromptText(builder, mark="")
        _write(builder, text, folder)
    if _reload(folder)("a")["input_ids"][-1:] != builder.eos:
        raise ModelError("the exported tokenizer does not append EOS: transformers builds it anew on loading")
    return text


def _reload(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _drops(mark: str, folder: Path) -> bool:
    tokenizer = _reload(folder)
    with_mark, without = (tokenizer(f"a{between}\n")["input_ids"] for between in (mark, ""))
    return bool(with_mark == without)


def _write(builder: PromptBuilder, text: PromptText, folder: Path) -> None:
    tokenizer = _copy_of(builder.tokenizer)
    backend = tokenizer.backend_tokenizer
    if text.mark:
        backend.pre_tokenizer = _split_first(backend.pre_tokenizer, text.mark)
    backend.post_processor = _bos_and_eos(tokenizer, has_bos=bool(builder.bos))
    tokenizer.chat_template = text.chat_template()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = builder.budgets.total_tokens
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_bytes())
    # The class of a model family may rebuild the pre-tokenizer when it loads; the plain class reads the file.
    config = {name: value for name, value in config.items() if name not in NOT_WRITTEN}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_atomically(path, json.dumps(config, indent=1, ensure_ascii=False).encode())


def _copy_of(tokenizer: Any) -> Any:
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{type(tokenizer).__name__} has no tokenizer.json; save the base model with a fast one first"
        )
    return copy.deepcopy(tokenizer)


def _split_first(existing: Any, mark: str) -> Any:
    from tokenizers import pre_tokenizers

    split = pre_tokenizers.Split(mark, "removed")
    return split if existing is None else pre_tokenizers.Sequence([split, existing])


def _bos_and_eos(tokenizer: Any, *, has_bos: bool) -> Any:
    from tokenizers import processors

    start, end = [tokenizer.bos_token] if has_bos else [], [tokenizer.eos_token]
    return processors.TemplateProcessing(
        single=[*start, "$A", *end],
        pair=[*start, "$A", "$B", *end],
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in [*start, *end]],
    )


def count_differences(text: PromptText, tasks: Mapping[str, TaskPrompt], folder: Path) -> dict[str, int]:
    """How many tokens of some awkward texts come out differently from the exported folder, per task prompt.

    Both ways are tried, the string and the chat, and the worse one counts. The entry ``passages`` is about
    texts without a prompt.
    """
    theirs, builder = _reload(folder), text.builder

    def differences(ours: list[Tokens], prefix: str | None) -> int:
        system = [] if prefix is None else [{"role": "system", "content": prefix}]
        found = 0
        for probe, tokens in zip(PROBES, ours, strict=True):
            string = text.passage(probe) if prefix is None else text.query(prefix, probe)
            chat = [*system, {"role": "user", "content": probe}]
            rendered = theirs.apply_chat_template(chat, tokenize=False)
            ways = theirs([string])["input_ids"] + theirs([rendered], add_special_tokens=False)["input_ids"]
            found += max(_distance(way, tokens) for way in ways)
        return found

    found = {"passages": differences(builder.passages(PROBES), None)}
    for name, task in tasks.items():
        tokens = builder.prefix(task.instruction, task.examples).tokens
        ours = [tokens + tail for tail in builder.query_tails(task.instruction, PROBES)]
        found[name] = differences(ours, text.prefix(task.instruction, task.examples))
    return found


def _distance(left: Tokens, right: Tokens) -> int:
    """Tokens of the longer list that have no counterpart in the other."""
    blocks = difflib.SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
    return max(len(left), len(right)) - sum(block.size for block in blocks)
