"""Tiny model folders as others publish them: a Mistral in the form of bge-en-icl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tiny_models import WORDS, build_tokenizer

PROMPT_TOKENS = ["<instruct>", "<query>", "<response>"]


def build_published(folder: Path, tokenizer: str) -> Path:
    """fp32 safetensors without a head, BOS and EOS by the tokenizer, the three tokens added, no file of ours."""
    import torch
    from tokenizers import processors
    from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    if tokenizer == "sentencepiece":
        fast = PreTrainedTokenizerFast(
            tokenizer_object=_sentencepiece_like(), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )
    else:
        build_tokenizer(folder)
        fast = AutoTokenizer.from_pretrained(folder)
    fast.add_special_tokens({"additional_special_tokens": PROMPT_TOKENS})
    ends = [(token, fast.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=ends
    )
    fast.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"add_bos_token": True, "add_eos_token": True}
    path.write_text(json.dumps(config | {"tokenizer_class": "LlamaTokenizer", "padding_side": "left"}))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048}
    mistral = AutoConfig.for_model(
        "mistral", vocab_size=len(fast), **sizes, **heads, bos_token_id=ends[0][1], eos_token_id=ends[1][1]
    )
    AutoModel.from_config(mistral).float().save_pretrained(folder)
    return folder


def _sentencepiece_like() -> Any:
    """BPE with byte fallback and a space before every text, as Llama's and Mistral's converted tokenizers."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # while training only
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[*special, *(f"<0x{value:02X}>" for value in range(256))],
        initial_alphabet=list("▁abcdefghijklmnopqrstuvwxyzIQRF:"),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS), " Instruct: Query: Response:"] * 20, trainer)
    content = json.loads(tokenizer.to_str()) | {"pre_tokenizer": None}
    content["added_tokens"] = [one for one in content["added_tokens"] if one["content"] in special]
    return Tokenizer.from_str(json.dumps(content))
