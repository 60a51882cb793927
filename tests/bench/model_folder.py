"""The one model folder that every system loads: a base model dressed like the released bge-en-icl.

Three tokens are added, EOS is appended by the tokenizer itself, rows are padded on the left, there is no chat
template, and weights are fp32, so that a library which keeps the stored number format computes in fp32 as well.
"""

from __future__ import annotations

import json
from pathlib import Path

SPECIAL_TOKENS = ["<instruct>", "<query>", "<response>"]


def dress(base: Path, folder: Path, *, layers: int = 0) -> Path:
    """Write the folder; ``layers`` keeps only the first ones, 0 all."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from icl_embed.model.backbone import quiet_transformers
    from icl_embed.model.base import keep_first_layers

    quiet_transformers()
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, trust_remote_code=False)
    keep_first_layers(model, layers)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL_TOKENS})
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tokenizer.chat_template = None  # with one, sentence-transformers would encode each text as a chat message
    eos = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {eos}", pair=f"$A $B {eos}", special_tokens=[(eos, tokenizer.eos_token_id)]
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _pad_left(folder / "tokenizer_config.json")
    return folder


def _pad_left(path: Path) -> None:
    """Released models of this family pad on the left; save_pretrained does not write the side."""
    settings = json.loads(path.read_bytes())
    path.write_text(json.dumps({**settings, "padding_side": "left"}, indent=2) + "\n", encoding="utf-8")
